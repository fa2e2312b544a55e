// One element of VREQ or VQT. Operands in at stage 0, result out (registered) at stage 16:
//   1: acc1 + bias<<bs     3: times m1; acc2*m2 << e_u     4: w     6, 7: v = sat32(rne(w, shift))     9: v*mantissa
//   11, 12: sat32(rne(.., token shift))     13: z = .. + bias<<bs     15: rne(z, guard) + zero point     16: clamp
// VQT takes v's magnitude out at stage 8 and comes back with guard = e and symmetric bounds.
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
    output reg  [31:0]     o_magnitude,
    output reg  [31:0]     o_result,
    output reg             o_changed
);
    wire late  = i_bias_end && !i_quantize;
    wire scale = i_token_scale && !i_quantize;
    wire signed [63:0] bias = {{32{i_bias[31]}}, i_bias} << i_bias_shift;
    wire signed [63:0] acc1 = {{(64-BITS){i_acc1[BITS-1]}}, i_acc1};
    localparam WIDE = BITS > 32 ? 64 : 32;
    wire signed [WIDE-1:0] acc2;
    generate
        if (BITS == WIDE) begin : g_full
            assign acc2 = i_acc2;
        end else begin : g_short
            assign acc2 = {{(WIDE-BITS){i_acc2[BITS-1]}}, i_acc2};
        end
    endgenerate

    // To w, stage 4
    reg  signed [63:0] base1, adapter3, w4;
    reg  [15:0]        m1;
    wire               adapter2;
    wire [4:0]         exponent2;
    wire signed [63:0] both2, base3;
    delay #(.WIDTH(6), .STAGES(2)) u_adapter (.i_clk(i_clk), .i_data({i_adapter, i_exponent}), .o_data({adapter2, exponent2}));
    multiply16 #(.WIDTH(WIDE)) u_both (.i_clk(i_clk), .i_a(acc2), .i_b(i_m2), .o_product(both2));
    multiply16 #(.WIDTH(64)) u_base (.i_clk(i_clk), .i_a(base1), .i_b(m1), .o_product(base3));
    always @(posedge i_clk) begin
        base1    <= acc1 + (late ? 64'sd0 : bias);
        m1       <= i_m1;
        adapter3 <= adapter2 ? both2 << exponent2 : 64'sd0;
        w4       <= base3 + adapter3;
    end

    // To v, stage 7
    wire [5:0]         shift4;
    wire signed [63:0] rounded6;
    wire signed [31:0] v_next;
    wire               v_changed, changed12;
    reg  signed [31:0] v7;
    reg                changed7;
    delay #(.WIDTH(6), .STAGES(4)) u_shift (.i_clk(i_clk), .i_data(i_shift), .o_data(shift4));
    round_shift u_round6 (.i_clk(i_clk), .i_value(w4), .i_shift(shift4), .i_add(64'sd0), .o_value(rounded6));
    saturate32  u_sat6 (.i_value(rounded6), .o_value(v_next), .o_changed(v_changed));
    always @(posedge i_clk) begin
        v7          <= v_next;
        changed7    <= v_changed;
        o_magnitude <= v7[31] ? 32'd0 - v7 : v7;
    end

    // To z, stage 13
    wire [15:0]        mantissa7;
    wire [5:0]         token9;
    wire [31:0]        bias11;
    wire signed [63:0] scaled9, rounded11;
    wire signed [31:0] z_next;
    wire               z_changed;
    reg  signed [63:0] bias12, z13;
    reg  signed [31:0] z12;
    reg                changed13, changed14, changed15;
    delay #(.WIDTH(16), .STAGES(7)) u_mantissa (.i_clk(i_clk), .i_data(scale ? i_mantissa : 16'd1), .o_data(mantissa7));
    delay #(.WIDTH(6), .STAGES(9)) u_token (.i_clk(i_clk), .i_data(scale ? i_token_shift : 6'd0), .o_data(token9));
    delay #(.WIDTH(32), .STAGES(11)) u_bias (.i_clk(i_clk), .i_data(late ? i_bias : 32'd0), .o_data(bias11));
    multiply16 #(.WIDTH(32)) u_scaled (.i_clk(i_clk), .i_a(v7), .i_b(mantissa7), .o_product(scaled9));
    round_shift u_round11 (.i_clk(i_clk), .i_value(scaled9), .i_shift(token9), .i_add(64'sd0),
                           .o_value(rounded11));
    saturate32  u_sat11 (.i_value(rounded11), .o_value(z_next), .o_changed(z_changed));
    delay #(.WIDTH(1), .STAGES(5)) u_changed (.i_clk(i_clk), .i_data(changed7), .o_data(changed12));
    reg  z_changed12;
    always @(posedge i_clk) begin
        z12         <= z_next;
        z_changed12 <= z_changed;
        bias12      <= {{32{bias11[31]}}, bias11} << i_bias_shift;
        z13         <= {{32{z12[31]}}, z12} + bias12;
        changed13   <= changed12 || z_changed12;
        {changed15, changed14} <= {changed14, changed13};
    end

    // To the result, stage 16
    wire signed [63:0] y15, low, high;
    round_shift u_round15 (.i_clk(i_clk), .i_value(z13), .i_shift({1'b0, i_guard}),
                           .i_add({{48{i_zero_point[15]}}, i_zero_point}), .o_value(y15));
    assign low  = {{32{i_low[31]}}, i_low};
    assign high = {{32{i_high[31]}}, i_high};
    wire above = y15 > high, under = y15 < low;
    always @(posedge i_clk) begin
        o_result  <= above ? i_high : under ? i_low : y15[31:0];
        o_changed <= changed15 || (!i_quantize && (above || under));
    end
endmodule
`default_nettype wire
