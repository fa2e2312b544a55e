// The deterministic memory model of docs/isa.md, for simulation only. AR, AW and W are always ready.
// An AR seen in cycle c gives its first beat in max(c + RLAT, last beat of the burst before + 1), then a beat a cycle;
// B comes WLAT cycles after the last W beat. Beats in [i_bad_start, i_bad_end) answer with SLVERR, beyond BYTES with DECERR.
// With i_stall not zero, it seeds random pauses of all five channels instead.
// A change of i_fill reads i_file into the memory; a change of i_dump writes words i_dump_first..i_dump_last to i_file.
`default_nettype none
module axi_memory #(
    parameter BEAT_BYTES = 8,
    parameter BYTES      = 1 << 20,
    parameter RLAT       = 12,
    parameter WLAT       = 6
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    input  wire                    i_arvalid,
    output wire                    o_arready,
    input  wire                    i_arid,
    input  wire [31:0]             i_araddr,
    input  wire [7:0]              i_arlen,
    output wire                    o_rvalid,
    input  wire                    i_rready,
    output wire                    o_rid,
    output wire [8*BEAT_BYTES-1:0] o_rdata,
    output wire [1:0]              o_rresp,
    output wire                    o_rlast,
    input  wire                    i_awvalid,
    output wire                    o_awready,
    input  wire [31:0]             i_awaddr,
    input  wire                    i_wvalid,
    output wire                    o_wready,
    input  wire [8*BEAT_BYTES-1:0] i_wdata,
    input  wire [BEAT_BYTES-1:0]   i_wstrb,
    input  wire                    i_wlast,
    output wire                    o_bvalid,
    input  wire                    i_bready,
    output wire [1:0]              o_bresp,
    input  wire [31:0]             i_bad_start,
    input  wire [31:0]             i_bad_end,
    input  wire [31:0]             i_stall,
    input  wire                    i_fill,
    input  wire                    i_dump,
    input  wire [31:0]             i_dump_first,
    input  wire [31:0]             i_dump_last,
    input  wire [2047:0]           i_file
);
    localparam LOGB  = $clog2(BEAT_BYTES);
    localparam WORDS = BYTES / BEAT_BYTES;
    localparam ADDR  = $clog2(WORDS);
    reg  [8*BEAT_BYTES-1:0] memory [0:WORDS-1];
    reg  [63:0] now;
    localparam [63:0] LATER_R = {32'd0, RLAT[31:0]}, LATER_W = {32'd0, WLAT[31:0]}, SIZE = {32'd0, BYTES[31:0]};

    // Reads: a ring of 16 bursts.
    reg  [31:0] burst_address [0:15];
    reg  [7:0]  burst_length [0:15];
    reg         burst_id [0:15];
    reg  [63:0] burst_time [0:15];
    reg  [3:0]  head, tail;
    reg  [4:0]  bursts;
    reg  [7:0]  beat;
    wire [31:0] address = burst_address[head] + ({24'd0, beat} << LOGB);
    wire        take    = o_rvalid && i_rready;
    wire        outside = {32'd0, address} >= SIZE;
    wire        bad     = address >= i_bad_start && address < i_bad_end;
    // Galois LFSR; a channel pauses when its two bits are zero.
    reg  [31:0] random;
    wire        steady = i_stall == 32'd0;
    wire        go_ar = steady || random[1:0] != 2'd0, go_r = steady || random[5:4] != 2'd0;
    wire        go_aw = steady || random[9:8] != 2'd0, go_w = steady || random[13:12] != 2'd0;
    wire        go_b  = steady || random[17:16] != 2'd0;
    wire        ask   = i_arvalid && o_arready, begin_write = i_awvalid && o_awready, put = i_wvalid && o_wready;
    assign o_arready = go_ar;
    assign o_rvalid  = bursts != 5'd0 && now >= burst_time[head] && go_r;
    assign o_rid     = burst_id[head];
    assign o_rdata   = outside ? {8*BEAT_BYTES{1'b0}} : memory[address[LOGB +: ADDR]];
    assign o_rresp   = outside ? 2'b11 : bad ? 2'b10 : 2'b00;
    assign o_rlast   = beat == burst_length[head];

    // Writes: the data of one burst at a time, responses of at most 31 due.
    reg  [31:0] write_address;
    reg         write_bad, write_outside;
    reg  [63:0] answer_time[0:31];
    reg  [1:0]  answer[0:31];
    reg  [4:0]  answer_head, answer_tail;
    integer     k;
    wire        now_outside = {32'd0, write_address} >= SIZE;
    wire        now_bad     = write_address >= i_bad_start && write_address < i_bad_end;
    assign o_awready = go_aw;
    assign o_wready  = go_w;
    assign o_bvalid  = answer_head != answer_tail && now >= answer_time[answer_head] && go_b;
    assign o_bresp   = answer[answer_head];

    reg fill_seen, dump_seen;
    initial {fill_seen, dump_seen} = 2'b00;
    always @(posedge i_clk) begin
        if (i_fill != fill_seen) $readmemh(i_file, memory);
        if (i_dump != dump_seen) $writememh(i_file, memory, i_dump_first, i_dump_last);
        fill_seen <= i_fill;
        dump_seen <= i_dump;
        if (put && !now_outside && !now_bad)
            for (k = 0; k < BEAT_BYTES; k = k + 1)
                if (i_wstrb[k]) memory[write_address[LOGB +: ADDR]][8*k +: 8] <= i_wdata[8*k +: 8];
        if (i_rst) begin
            now <= 64'd0;
            random <= i_stall;
            {head, tail, bursts, beat} <= 21'd0;
            {answer_head, answer_tail, write_bad, write_outside} <= 12'd0;
        end else begin
            now <= now + 64'd1;
            random <= {1'b0, random[31:1]} ^ (random[0] ? 32'hA3000000 : 32'd0);
            if (ask) begin
                burst_address[tail] <= i_araddr;
                burst_length[tail]  <= i_arlen;
                burst_id[tail]      <= i_arid;
                burst_time[tail]    <= now + LATER_R;
                tail                <= tail + 4'd1;
            end
            bursts <= bursts + {4'd0, ask} - {4'd0, take && o_rlast};
            if (take) beat <= o_rlast ? 8'd0 : beat + 8'd1;
            if (take && o_rlast) head <= head + 4'd1;
            if (begin_write) begin
                write_address <= i_awaddr;
                write_bad     <= 1'b0;
                write_outside <= 1'b0;
            end else if (put) begin
                write_address <= write_address + BEAT_BYTES;
                write_bad     <= write_bad || now_bad;
                write_outside <= write_outside || now_outside;
                if (i_wlast) begin
                    answer[answer_tail]      <= write_outside || now_outside ? 2'b11 : write_bad || now_bad ? 2'b10 : 2'b00;
                    answer_time[answer_tail] <= now + LATER_W;
                    answer_tail              <= answer_tail + 5'd1;
                end
            end
            if (o_bvalid && i_bready) answer_head <= answer_head + 5'd1;
        end
    end
endmodule
`default_nettype wire
