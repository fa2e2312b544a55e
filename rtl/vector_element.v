// One element of VREQ or VQT. Stage 4 operands in, stage 10 result out (registered):
//   5: acc1 + bias<<bs | acc2*m2 << e_u     6: w     7: v = sat32(rne(w, shift))     8: v*mantissa
//   9: z = sat32(rne(.., token shift)) + bias<<bs     10: clamp(rne(z, guard) + zero point)
// VQT takes v's magnitude out at stage 7 and comes back with guard = e and symmetric bounds.
`default_nettype none
module vector_element #(
    parameter BITS = 32
) (
    input  wire            i_clk,
    input  wire [BITS-1:0] i_acc1,
    input  wire [BITS-1:0] i_acc2,
    input  wire [31:0]     i_bias,
    input  wire [15:0]     i_m1,
    input  wire [15:0]     i_m2,
    input  wire [5:0]      i_shift,
    input  wire            i_adapter,
    input  wire [4:0]      i_exponent,
    input  wire [15:0]     i_mantissa,
    input  wire [5:0]      i_token_shift,
    input  wire            i_quantize,
    input  wire            i_bias_end,
    input  wire [3:0]      i_bias_shift,
    input  wire            i_token_scale,
    input  wire [4:0]      i_guard,
    input  wire [15:0]     i_zero_point,
    input  wire [31:0]     i_low,
    input  wire [31:0]     i_high,
    output wire [31:0]     o_magnitude,
    output reg  [31:0]     o_result,
    output reg             o_changed
);
    wire signed [63:0] bias = {{32{i_bias[31]}}, i_bias} << i_bias_shift;
    wire signed [63:0] acc1 = {{(64-BITS){i_acc1[BITS-1]}}, i_acc1};
    wire signed [63:0] acc2 = {{(64-BITS){i_acc2[BITS-1]}}, i_acc2};
    wire signed [63:0] m2   = {48'd0, i_m2};
    wire signed [63:0] both = acc2 * m2;
    wire               late = i_bias_end && !i_quantize;

    reg signed [63:0] base5, adapter5, bias5, w6, bias6, bias7, bias8, vm8, z9;
    reg signed [31:0] v7;
    reg [15:0] m5, mantissa5, mantissa6, mantissa7;
    reg [5:0]  shift5, shift6, token5, token6, token7, token8;
    reg        changed7, changed8, changed9;

    wire signed [63:0] rounded6, rounded8, rounded9, m5_wide, v7_wide, mantissa7_wide, y;
    wire signed [31:0] v_next, z_next;
    wire               v_changed, z_changed;
    round_shift u_round6 (.i_value(w6), .i_shift(shift6), .o_value(rounded6));
    saturate32  u_sat6 (.i_value(rounded6), .o_value(v_next), .o_changed(v_changed));
    round_shift u_round8 (.i_value(vm8), .i_shift(token8), .o_value(rounded8));
    saturate32  u_sat8 (.i_value(rounded8), .o_value(z_next), .o_changed(z_changed));
    round_shift u_round9 (.i_value(z9), .i_shift({1'b0, i_guard}), .o_value(rounded9));
    assign m5_wide        = {48'd0, m5};
    assign v7_wide        = {{32{v7[31]}}, v7};
    assign mantissa7_wide = {48'd0, mantissa7};
    assign y              = rounded9 + {{48{i_zero_point[15]}}, i_zero_point};
    assign o_magnitude    = v7[31] ? 32'd0 - v7 : v7;
    wire signed [63:0] low  = {{32{i_low[31]}}, i_low};
    wire signed [63:0] high = {{32{i_high[31]}}, i_high};

    always @(posedge i_clk) begin
        base5     <= acc1 + (late ? 64'sd0 : bias);
        adapter5  <= i_adapter ? both << i_exponent : 64'sd0;
        bias5     <= late ? bias : 64'sd0;
        {m5, shift5, mantissa5, token5} <= {i_m1, i_shift, i_mantissa, i_token_shift};
        w6        <= base5 * m5_wide + adapter5;
        {shift6, mantissa6, token6} <= {shift5, mantissa5, token5};
        bias6     <= bias5;
        v7        <= v_next;
        changed7  <= v_changed;
        {mantissa7, token7} <= {mantissa6, token6};
        bias7     <= bias6;
        vm8       <= i_token_scale && !i_quantize ? v7_wide * mantissa7_wide : v7_wide;
        token8    <= i_token_scale && !i_quantize ? token7 : 6'd0;
        changed8  <= changed7;
        bias8     <= bias7;
        z9        <= {{32{z_next[31]}}, z_next} + bias8;
        changed9  <= changed8 || z_changed;
        o_result  <= y > high ? i_high : y < low ? i_low : y[31:0];
        o_changed <= changed9 || (!i_quantize && (y > high || y < low));
    end
endmodule
`default_nettype wire
