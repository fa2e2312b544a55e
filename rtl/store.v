// Store: OBUF to memory in bursts. START sends AW and reads the first beat, DATA sends W, then the next burst starts while the
// responses of those before are still due; RESPONSE waits for the last. A burst that has begun is completed even after an error
// has stopped the machine. SPITCH holds how far rows, and parts of some bytes, lie from each other.
`default_nettype none
`include "axlora_isa.vh"
module store #(
    parameter BEAT_BYTES  = 8,
    parameter BURST_BEATS = 16,
    parameter OBUF_BEATS  = 512,
    parameter ADDR        = $clog2(OBUF_BEATS)
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_clear,  // SPITCH is as at power-up
    input  wire                       i_run,
    input  wire [31:0]                i_limit,
    input  wire [31:0]                i_base,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output wire                       o_read,
    output wire [ADDR-1:0]            o_read_beat,
    input  wire [8*BEAT_BYTES-1:0]    i_read_data,
    output wire                       o_awvalid,
    input  wire                       i_awready,
    output wire [31:0]                o_awaddr,
    output wire [7:0]                 o_awlen,
    output wire                       o_wvalid,
    input  wire                       i_wready,
    output wire [8*BEAT_BYTES-1:0]    o_wdata,
    output wire                       o_wlast,
    output wire [BEAT_BYTES-1:0]      o_wstrb,
    input  wire                       i_bvalid,
    input  wire                       i_bad,
    output wire                       o_active,
    output wire [3:0]                 o_error
);
    localparam [2:0] IDLE = 3'd0, START = 3'd1, DATA = 3'd2, RESPONSE = 3'd3, FINISH = 3'd4;
    localparam [21:0] DEPTH = OBUF_BEATS[21:0];
    reg  [2:0]  state;
    reg  [21:0] beat;
    reg  [6:0]  todo;
    reg  [4:0]  due;                 // bursts that are not answered
    reg         sent;
    reg         ready, outside;      // the burst and whether OBUF has it, a cycle after it is there
    reg         began, ended, over;  // a burst began in the cycle before; it was its piece's last, the transfer's
    wire        no_piece, left, there, ends, bad_burst;
    wire [6:0]  beats;
    wire        fit   = !bad_burst && !outside;
    wire        go    = state == START && (sent || (ready && fit && due != `AXL_POSTED));
    wire        move  = state == DATA && i_wready;
    wire        begun = go && i_awready;
    wire        fault = state == START && !sent && ready && i_run && due == 5'd0;

    // SPITCH
    wire [5:0]  op     = i_entry[`AXL_ENTRY_OP];
    wire        accept = i_accept && !o_single;
    reg  [31:0] row_pitch;
    reg  [15:0] part_pitch;
    assign o_single = op == `AXL_OP_SPITCH;
    always @(posedge i_clk)
        if (i_clear) {row_pitch, part_pitch} <= 48'd0;
        else if (i_accept && o_single) {row_pitch, part_pitch} <= {i_entry[`AXL_ENTRY_X], i_entry[`AXL_ENTRY_Y]};

    // A transfer is one piece, or one for each row, or for each part: `parts` a row, in `rows`.
    localparam LOGB = $clog2(BEAT_BYTES);
    localparam [31:0] BEAT = BEAT_BYTES;
    wire [5:0]  sub_in = i_entry[`AXL_ENTRY_SUB];
    wire [31:0] x = i_entry[`AXL_ENTRY_X];
    wire [16:0] row_in = i_entry[`AXL_ENTRY_MISC];
    wire [15:0] rows_in = i_entry[`AXL_ENTRY_Z];
    wire        empty  = row_in == 17'd0 || rows_in == 16'd0;
    wire        in_parts = sub_in != 6'd0, by_rows = row_pitch != 32'd0;
    reg  [16:0] row_beats, parts;
    reg  [15:0] rows;
    reg  [31:0] row_at, at;
    reg         pitched;
    reg  [2:0]  sub;
    wire        row_ends = parts == 17'd1, pieces_end = row_ends && rows == 16'd1;
    wire [31:0] row_next = row_at + row_pitch;
    wire [31:0] part_next = at + (part_pitch == 16'd0 ? BEAT : {16'd0, part_pitch});
    wire [31:0] next = row_ends && pitched ? row_next : part_next;
    wire        piece = began && ended && !over;
    always @(posedge i_clk)
        if (accept) begin
            {row_at, at} <= {x, x};
            row_beats <= row_in;
            parts     <= in_parts ? row_in : 17'd1;
            rows      <= in_parts || by_rows ? rows_in : 16'd1;
            pitched   <= by_rows;
        end else if (piece) begin
            at    <= next;
            parts <= !row_ends ? parts - 17'd1 : sub != 3'd0 ? row_beats : 17'd1;
            if (row_ends) begin
                row_at <= next;
                rows   <= rows - 16'd1;
            end
        end

    // Bytes of each beat: all, or 2^(sub-1) of them from the address's place in the beat on.
    reg  [LOGB-1:0] first;
    wire [5:0]      count = 6'd1 << (sub - 3'd1);
    wire [BEAT_BYTES-1:0] named = ~({BEAT_BYTES{1'b1}} << count);
    assign o_wstrb = sub == 3'd0 ? {BEAT_BYTES{1'b1}} : named << first;
    always @(posedge i_clk) begin
        if (accept) sub <= sub_in[`AXL_STORE_BYTES];
        if (begun) first <= at[LOGB-1:0];
    end

    wire        idle       = state == IDLE;  // what begins is a transfer, else a piece; accept itself comes late in a cycle
    wire [31:0] begin_at   = idle ? x : next;
    wire [16:0] begin_row  = idle ? (in_parts ? 17'd1 : row_in) : sub != 3'd0 ? 17'd1 : row_beats;
    wire [15:0] begin_rows = idle && !in_parts && !by_rows ? rows_in : 16'd1;
    burst #(.BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS)) u_burst (
        .i_clk(i_clk), .i_run(i_run), .i_begin(accept || piece), .i_address({begin_at[31:LOGB], {LOGB{1'b0}}}), .i_row(begin_row),
        .i_rows(begin_rows), .o_empty(no_piece), .i_next(began && !ended), .i_limit(i_limit), .i_base(i_base), .o_left(left),
        .o_ready(there), .o_address(o_awaddr), .o_beats(beats), .o_last(ends), .o_bad(bad_burst));
    wire        unused = &{1'b0, i_entry, begin_at, left, no_piece};
    assign o_awvalid   = go;
    assign o_awlen     = {1'b0, beats} - 8'd1;
    assign o_wvalid    = state == DATA;
    assign o_wdata     = i_read_data;
    assign o_wlast     = todo == 7'd1;
    assign o_read      = begun || move;
    assign o_read_beat = beat[ADDR-1:0];
    assign o_done      = state == FINISH && i_run;
    assign o_active    = state == DATA || due != 5'd0 || go;
    assign o_error = fault && outside         ? `AXL_ERROR_LOCAL_ADDRESS
                   : fault && bad_burst       ? `AXL_ERROR_MEMORY_ADDRESS
                   : i_bvalid && i_bad        ? `AXL_ERROR_AXI_WRITE : `AXL_ERROR_NONE;
    always @(posedge i_clk) begin
        if (accept) beat <= {6'd0, i_entry[`AXL_ENTRY_Y]};
        else if (begun || (move && todo != 7'd1)) beat <= beat + 22'd1;
        ready   <= there && !begun && !began && !accept && i_run;
        outside <= beat + {15'd0, beats} > DEPTH;
        if (begun) {ended, over} <= {ends, ends && pieces_end};
        if (begun) todo <= beats;
        else if (move) todo <= todo - 7'd1;
        if (i_rst) begin
            state <= IDLE;
            due   <= 5'd0;
            {sent, began} <= 2'b00;
        end else begin
            sent  <= go && !i_awready;
            began <= begun;
            due   <= due + {4'd0, begun} - {4'd0, i_bvalid};
            case (state)
                IDLE: if (accept) state <= empty ? FINISH : START;
                START: if (begun) state <= DATA;
                DATA: if (i_wready && o_wlast) state <= over ? RESPONSE : START;
                RESPONSE: if (i_bvalid && due == 5'd1) state <= FINISH;
                default: state <= IDLE;
            endcase
        end
    end
endmodule
`default_nettype wire
