// rne(v, s) = v / 2^s rounded half to even, s = 0..63: floor + (guard and (sticky or odd)).
`default_nettype none
module round_shift (
    input  wire signed [63:0] i_value,
    input  wire        [5:0]  i_shift,
    output wire signed [63:0] o_value
);
    wire signed [63:0] floor = i_value >>> i_shift;
    wire        [63:0] ones  = ~({64{1'b1}} << i_shift);
    wire        [63:0] rest  = i_value & ones;
    wire        [63:0] half  = (ones >> 1) + {63'd0, i_shift != 6'd0};
    wire               up    = i_shift != 6'd0 && (rest > half || (rest == half && floor[0]));
    assign o_value = floor + $signed({63'd0, up});
endmodule
`default_nettype wire
