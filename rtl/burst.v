// A transfer cut into bursts: a burst ends at the transfer's end or at the next multiple of BURST*BEAT_BYTES bytes. The next
// burst is there (o_left, o_ready) two cycles after i_begin or i_next; o_last: none comes after it. One whose last byte is at or
// beyond the limit is bad.
`default_nettype none
module burst #(
    parameter BEAT_BYTES  = 8,
    parameter BURST_BEATS = 16
) (
    input  wire        i_clk,
    input  wire        i_run,
    input  wire        i_begin,
    input  wire [31:0] i_address,
    input  wire [16:0] i_row,
    input  wire [15:0] i_rows,
    output wire        o_empty,
    input  wire        i_next,
    input  wire [31:0] i_limit,
    input  wire [31:0] i_base,
    output wire        o_left,
    output reg         o_ready,
    output reg  [31:0] o_address,
    output reg  [6:0]  o_beats,
    output reg         o_last,
    output reg         o_bad
);
    localparam LOGB = $clog2(BEAT_BYTES), LOGN = $clog2(BURST_BEATS);
    localparam [6:0] MOST = BURST_BEATS[6:0];
    reg  [32:0] left, ends;
    reg  [31:0] address;
    wire [32:0] total = {16'd0, i_row} * {17'd0, i_rows};
    wire [6:0]  room  = MOST - {{(7-LOGN){1'b0}}, address[LOGB +: LOGN]};
    wire        whole = left >= {26'd0, room};
    wire [32:0] end_whole = {{1'b0, address[31:LOGB+LOGN]} + 1'b1, {(LOGB+LOGN){1'b0}}};
    wire [32:0] end_part  = {1'b0, address} + {{(26-LOGB){1'b0}}, left[6:0], {LOGB{1'b0}}};
    wire [32:0] limit     = {1'b0, i_limit};
    assign o_empty = i_row == 17'd0 || i_rows == 16'd0;
    assign o_left  = left != 33'd0;
    always @(posedge i_clk) begin
        o_ready   <= i_run && !i_begin && !i_next;
        o_beats   <= whole ? room : left[6:0];
        o_last    <= left <= {26'd0, room};
        ends      <= whole ? end_whole : end_part;
        o_bad     <= whole ? end_whole > limit : end_part > limit;
        o_address <= i_base + address;
        if (i_begin) begin
            left    <= total;
            address <= i_address;
        end else if (i_next) begin
            left    <= left - {26'd0, o_beats};
            address <= ends[31:0];
        end
    end
    wire unused_end = &{1'b0, ends[32]};
endmodule
`default_nettype wire
