// A transfer cut into bursts: a burst ends at the transfer's end or at the next multiple of BURST*BEAT_BYTES bytes.
// A burst whose last byte is at or beyond the limit is bad.
`default_nettype none
module burst #(
    parameter BEAT_BYTES  = 8,
    parameter BURST_BEATS = 16
) (
    input  wire        i_clk,
    input  wire        i_begin,
    input  wire [31:0] i_address,
    input  wire [16:0] i_row,
    input  wire [15:0] i_rows,
    output wire        o_empty,
    input  wire        i_next,
    input  wire [31:0] i_limit,
    output wire        o_left,
    output wire        o_final,
    output wire [31:0] o_address,
    output wire [6:0]  o_beats,
    output wire        o_bad
);
    localparam LOGB = $clog2(BEAT_BYTES), LOGN = $clog2(BURST_BEATS);
    localparam [6:0] MOST = BURST_BEATS[6:0];
    reg  [32:0] left;
    reg  [31:0] address;
    wire [32:0] total = {16'd0, i_row} * {17'd0, i_rows};
    wire [6:0]  room  = MOST - {{(7-LOGN){1'b0}}, address[LOGB +: LOGN]};
    wire [32:0] bytes_end = {1'b0, address} + {{(26-LOGB){1'b0}}, o_beats, {LOGB{1'b0}}};
    assign o_empty   = i_row == 17'd0 || i_rows == 16'd0;
    assign o_left    = left != 33'd0;
    assign o_final   = left == {26'd0, o_beats};
    assign o_address = address;
    assign o_beats   = left < {26'd0, room} ? left[6:0] : room;
    assign o_bad     = bytes_end > {1'b0, i_limit};
    always @(posedge i_clk)
        if (i_begin) begin
            left    <= total;
            address <= i_address;
        end else if (i_next) begin
            left    <= left - {26'd0, o_beats};
            address <= bytes_end[31:0];
        end
endmodule
`default_nettype wire
