// rne(v, s) + add = v / 2^s rounded half to even, s = 0..63, two cycles later: floor, guard bit and the bits behind it; then
// floor + add + (guard and (any of them or odd)). i_add comes one cycle after i_value.
`default_nettype none
module round_shift (
    input  wire               i_clk,
    input  wire signed [63:0] i_value,
    input  wire        [5:0]  i_shift,
    input  wire signed [63:0] i_add,
    output reg  signed [63:0] o_value
);
    wire signed [64:0] shifted = $signed({i_value, 1'b0}) >>> i_shift;
    wire        [63:0] below   = ~({64{1'b1}} << i_shift) >> 1;  // the bits behind the guard bit
    reg  signed [63:0] floor;
    reg                guard;
    reg         [63:0] rest;
    wire               up = guard && (rest != 64'd0 || floor[0]);
    always @(posedge i_clk) begin
        {floor, guard} <= shifted;
        rest           <= i_value & below;
        o_value        <= floor + i_add + $signed({63'd0, up});
    end
endmodule
`default_nettype wire
