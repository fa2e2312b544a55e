// Store: OBUF to memory, one burst at a time. START sends AW and reads the first beat, DATA sends W, RESPONSE waits for B.
// A burst that has begun is completed even after an error has stopped the machine.
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
    input  wire                       i_run,
    input  wire [31:0]                i_limit,
    input  wire [31:0]                i_base,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
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
    reg         sent;
    reg         ready, outside;  // the burst and whether OBUF has it, a cycle after it is there
    wire        empty, left, there, bad_burst;
    wire [6:0]  beats;
    wire        go      = state == START && (sent || (ready && !bad_burst && !outside));
    wire        move    = state == DATA && i_wready;
    wire        begun   = go && i_awready;
    wire        unused_entry = &{1'b0, i_entry};

    // Bytes of each beat: all, or 2^(sub-1) of them from the address's place in the beat on.
    localparam LOGB = $clog2(BEAT_BYTES);
    reg  [2:0]      sub;
    reg  [LOGB-1:0] first;
    wire [5:0]      count = 6'd1 << (sub - 3'd1);
    wire [BEAT_BYTES-1:0] named = ~({BEAT_BYTES{1'b1}} << count);
    assign o_wstrb = sub == 3'd0 ? {BEAT_BYTES{1'b1}} : named << first;
    wire [31:0]     x      = i_entry[`AXL_ENTRY_X];
    wire [5:0]      sub_in = i_entry[`AXL_ENTRY_SUB];
    wire            unused_sub = &{1'b0, sub_in};
    wire [31:0]     start_at = {x[31:LOGB], {LOGB{1'b0}}};
    always @(posedge i_clk) if (i_accept) {sub, first} <= {sub_in[`AXL_STORE_BYTES], x[LOGB-1:0]};

    burst #(.BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS)) u_burst (
        .i_clk(i_clk), .i_run(i_run), .i_begin(i_accept), .i_address(start_at), .i_row(i_entry[`AXL_ENTRY_MISC]),
        .i_rows(i_entry[`AXL_ENTRY_Z]), .o_empty(empty), .i_next(begun), .i_limit(i_limit), .i_base(i_base), .o_left(left),
        .o_ready(there), .o_address(o_awaddr), .o_beats(beats), .o_bad(bad_burst));
    assign o_awvalid   = go;
    assign o_awlen     = {1'b0, beats} - 8'd1;
    assign o_wvalid    = state == DATA;
    assign o_wdata     = i_read_data;
    assign o_wlast     = todo == 7'd1;
    assign o_read      = begun || move;
    assign o_read_beat = beat[ADDR-1:0];
    assign o_done      = state == FINISH && i_run;
    assign o_active    = state == DATA || state == RESPONSE || go;
    assign o_error = state == START && !sent && ready && i_run && outside   ? `AXL_ERROR_LOCAL_ADDRESS
                   : state == START && !sent && ready && i_run && bad_burst ? `AXL_ERROR_MEMORY_ADDRESS
                   : state == RESPONSE && i_bvalid && i_bad                 ? `AXL_ERROR_AXI_WRITE : `AXL_ERROR_NONE;
    always @(posedge i_clk) begin
        if (i_accept) beat <= {6'd0, i_entry[`AXL_ENTRY_Y]};
        else if (begun || (move && todo != 7'd1)) beat <= beat + 22'd1;
        ready   <= there && !begun && !i_accept && i_run;
        outside <= beat + {15'd0, beats} > DEPTH;
        if (begun) todo <= beats;
        else if (move) todo <= todo - 7'd1;
        if (i_rst) begin
            state <= IDLE;
            sent  <= 1'b0;
        end else begin
            sent <= go && !i_awready;
            case (state)
                IDLE: if (i_accept) state <= empty ? FINISH : START;
                START: if (begun) state <= DATA;
                DATA: if (i_wready && o_wlast) state <= RESPONSE;
                RESPONSE: if (i_bvalid) state <= left ? START : FINISH;
                default: state <= IDLE;
            endcase
        end
    end
endmodule
`default_nettype wire
