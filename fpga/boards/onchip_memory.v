// On-chip memory with the timing of docs/isa.md's memory model: an AR seen in cycle c gives its first beat in
// max(c + RLAT, last beat of the burst before + 1), then a beat a cycle; B comes WLAT cycles after the last W beat.
// AR, AW and W are always ready; R and B are taken when they come. Beats beyond BYTES answer DECERR. RLAT >= 3, WLAT >= 1.
`default_nettype none
module onchip_memory #(
    parameter BEAT_BYTES = 8,
    parameter BYTES      = 65536,
    parameter RLAT       = 16,
    parameter WLAT       = 8
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    input  wire                    i_arvalid,
    input  wire                    i_arid,
    input  wire [31:0]             i_araddr,
    input  wire [7:0]              i_arlen,
    output reg                     o_rvalid,
    output reg                     o_rid,
    output wire [8*BEAT_BYTES-1:0] o_rdata,
    output reg  [1:0]              o_rresp,
    output reg                     o_rlast,
    input  wire                    i_awvalid,
    input  wire [31:0]             i_awaddr,
    input  wire                    i_wvalid,
    input  wire [8*BEAT_BYTES-1:0] i_wdata,
    input  wire [BEAT_BYTES-1:0]   i_wstrb,
    input  wire                    i_wlast,
    output wire                    o_bvalid,
    output wire [1:0]              o_bresp
);
    localparam LOGB  = $clog2(BEAT_BYTES);
    localparam WORDS = BYTES / BEAT_BYTES;
    localparam ADDR  = $clog2(WORDS);
    localparam AR    = 1 + 32 - LOGB + 8;
    localparam integer WORDS_VALUE = WORDS;
    localparam [31-LOGB:0] LIMIT = WORDS_VALUE[31-LOGB:0];

    // Bursts wait RLAT - 2 cycles in a line, then in a queue of 16 (more than a master keeps in flight).
    reg  [AR*(RLAT-2)-1:0] line_data;
    reg  [RLAT-3:0]        line_valid;
    wire [AR-1:0]          queued;
    reg  [3:0]             head, tail;
    reg  [7:0]             beat;
    wire                   arrives = line_valid[RLAT-3];
    wire                   serve = head != tail;
    wire [31-LOGB:0]       word = queued[AR-2:8] + {{(24-LOGB){1'b0}}, beat};
    wire                   last = beat == queued[7:0];
    wire                   outside = word >= LIMIT;
    ram_lut #(.WIDTH(AR), .DEPTH(16)) u_queue (
        .i_clk(i_clk), .i_write(arrives), .i_write_address(tail), .i_write_data(line_data[AR*(RLAT-2)-1 -: AR]),
        .i_read_address(head), .o_read_data(queued));

    reg  [31-LOGB:0] write_word;
    reg              write_bad;
    reg  [WLAT-1:0]  answers, refusals;
    wire             write_outside = write_word >= LIMIT;
    wire             unused_bits = &{1'b0, i_araddr[LOGB-1:0], i_awaddr[LOGB-1:0]};
    assign o_bvalid = answers[WLAT-1];
    assign o_bresp  = {2{refusals[WLAT-1]}};
    ram_bytes #(.BYTES(BEAT_BYTES), .DEPTH(WORDS)) u_ram (
        .i_clk(i_clk), .i_write(i_wvalid && !write_outside ? i_wstrb : {BEAT_BYTES{1'b0}}),
        .i_write_address(write_word[ADDR-1:0]), .i_write_data(i_wdata), .i_read(1'b1), .i_read_address(word[ADDR-1:0]),
        .o_read_data(o_rdata));

    generate
        if (RLAT == 3) begin : g_short
            always @(posedge i_clk) begin
                line_data  <= {i_arid, i_araddr[31:LOGB], i_arlen};
                line_valid <= i_arvalid && !i_rst;
            end
        end else begin : g_long
            always @(posedge i_clk) begin
                line_data  <= {line_data[AR*(RLAT-3)-1:0], i_arid, i_araddr[31:LOGB], i_arlen};
                line_valid <= i_rst ? {(RLAT-2){1'b0}} : {line_valid[RLAT-4:0], i_arvalid};
            end
        end
    endgenerate
    always @(posedge i_clk) begin
        o_rresp <= outside ? 2'b11 : 2'b00;
        o_rlast <= last;
        o_rid   <= queued[AR-1];
        answers  <= (answers << 1) | {{(WLAT-1){1'b0}}, i_wvalid && i_wlast};
        refusals <= (refusals << 1) | {{(WLAT-1){1'b0}}, write_bad || write_outside};
        if (i_awvalid) begin
            write_word <= i_awaddr[31:LOGB];
            write_bad  <= 1'b0;
        end else if (i_wvalid) begin
            write_word <= write_word + 1'b1;
            write_bad  <= write_bad || write_outside;
        end
        if (i_rst) begin
            {head, tail, beat, o_rvalid} <= 17'd0;
            answers <= {WLAT{1'b0}};
        end else begin
            o_rvalid <= serve;
            if (arrives) tail <= tail + 4'd1;
            if (serve) beat <= last ? 8'd0 : beat + 8'd1;
            if (serve && last) head <= head + 4'd1;
        end
    end
endmodule
`default_nettype wire
