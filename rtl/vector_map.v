// One element of VMAP. Operands in at stage 0, result out (registered) at stage 14:
//   1: a' = sat32(a - less)     2: d = a' - low     4: the interval's number     5: its entry, to the table     7: factors
//   8, 9, 10: products     12: rne(.., shift) + base     13: y = sat32     14: clamped to the element's size
// Elements that are not valid give 0. The table answers one cycle after o_entry.
`default_nettype none
`include "axlora_isa.vh"
module vector_map (
    input  wire        i_clk,
    input  wire [31:0] i_a,
    input  wire [31:0] i_b,
    input  wire [31:0] i_less,
    input  wire [31:0] i_factor,
    input  wire [5:0]  i_factor_shift,
    input  wire        i_valid,
    input  wire [1:0]  i_function,
    input  wire [15:0] i_ca,
    input  wire [15:0] i_cb,
    input  wire [5:0]  i_shift,
    input  wire [31:0] i_low,
    input  wire [4:0]  i_step,
    input  wire [15:0] i_first,
    input  wire [15:0] i_last,
    input  wire [5:0]  i_slope_shift,
    input  wire        i_writes,
    input  wire [31:0] i_high,
    output reg  [15:0] o_entry,
    input  wire [63:0] i_record,
    output reg  [31:0] o_y,
    output reg         o_y_valid,
    output reg  [31:0] o_result,
    output reg         o_changed
);
    // To the table: differences have 33 bits
    wire signed [31:0] near_next, f_next;
    wire               near_changed, f_changed, valid12;
    wire               unused_changed = &{1'b0, near_changed, f_changed};
    reg signed [31:0]  a1, f6;
    reg signed [33:0]  d2, quotient3;
    reg        [15:0]  index4;
    reg signed [63:0]  start5;
    wire signed [33:0] d4, last3;
    wire signed [63:0] d5_wide;
    wire        [33:0] d5;
    wire signed [63:0] a_wide = {{32{i_a[31]}}, i_a}, less_wide = {{32{i_less[31]}}, i_less};
    saturate32 u_near (.i_value(a_wide - less_wide), .o_value(near_next), .o_changed(near_changed));
    saturate32 u_f (.i_value(d5_wide - start5), .o_value(f_next), .o_changed(f_changed));
    delay #(.WIDTH(34), .STAGES(2)) u_d4 (.i_clk(i_clk), .i_data(d2), .o_data(d4));
    delay #(.WIDTH(34), .STAGES(1)) u_d5 (.i_clk(i_clk), .i_data(d4), .o_data(d5));
    assign d5_wide = {{30{d5[33]}}, d5};
    assign last3   = {18'd0, i_last};
    always @(posedge i_clk) begin
        a1        <= near_next;
        d2        <= {{2{a1[31]}}, a1} - {{2{i_low[31]}}, i_low};
        quotient3 <= d2 >>> i_step;
        index4    <= quotient3 < 34'sd0 ? 16'd0 : quotient3 > last3 ? i_last : quotient3[15:0];
        o_entry   <= i_first + index4;
        start5    <= {48'd0, index4} << i_step;
        f6        <= f_next;
    end

    // Factors, stage 7
    wire [31:0] a6, b6, factor6;
    wire [5:0]  factor_shift6;
    delay #(.WIDTH(32), .STAGES(5)) u_a (.i_clk(i_clk), .i_data(a1), .o_data(a6));
    delay #(.WIDTH(70), .STAGES(6)) u_b (
        .i_clk(i_clk), .i_data({i_b, i_factor, i_factor_shift}), .o_data({b6, factor6, factor_shift6}));
    reg signed [31:0] m7, n7, b7, base7;
    reg signed [15:0] cb7;
    reg        [5:0]  shift7;
    always @(posedge i_clk) begin
        m7     <= i_function == `AXL_MAP_TABLE ? i_record[63:32] : a6;
        n7     <= i_function == `AXL_MAP_TABLE ? f6 : i_function == `AXL_MAP_MAC ? {{16{i_ca[15]}}, i_ca}
                : i_function == `AXL_MAP_MUL ? b6 : factor6;
        b7     <= b6;
        cb7    <= i_function == `AXL_MAP_MAC ? i_cb : 16'd0;
        base7  <= i_function == `AXL_MAP_TABLE ? i_record[31:0] : 32'd0;
        shift7 <= i_function == `AXL_MAP_TABLE ? i_slope_shift : i_function == `AXL_MAP_SCALE ? factor_shift6 : i_shift;
    end

    // m*n + b*cb, stage 10, from products of 16 bits
    reg signed [33:0] high_low8, low_high8, other_low8;
    reg signed [31:0] high8, other_high8;
    reg        [31:0] low8;
    reg signed [63:0] p9, q9, p10;
    wire signed [63:0] middle8 = ({{30{high_low8[33]}}, high_low8} + {{30{low_high8[33]}}, low_high8}) << 16;
    wire signed [63:0] other8  = {{16{other_high8[31]}}, other_high8, 16'd0};
    always @(posedge i_clk) begin
        high8       <= $signed(m7[31:16]) * $signed(n7[31:16]);
        high_low8   <= $signed({m7[31], m7[31:16]}) * $signed({1'b0, n7[15:0]});
        low_high8   <= $signed({1'b0, m7[15:0]}) * $signed({n7[31], n7[31:16]});
        low8        <= m7[15:0] * n7[15:0];
        other_high8 <= $signed(b7[31:16]) * cb7;
        other_low8  <= $signed({1'b0, b7[15:0]}) * $signed({cb7[15], cb7});
        p9          <= {high8, low8} + middle8;
        q9          <= other8 + {{30{other_low8[33]}}, other_low8};
        p10         <= p9 + q9;
    end

    // To the result, stage 14
    wire [31:0] base11;
    wire [5:0]  shift10;
    wire signed [63:0] rounded12;
    wire signed [31:0] y_next;
    wire               y_changed;
    reg                changed13;
    delay #(.WIDTH(32), .STAGES(4)) u_base (.i_clk(i_clk), .i_data(base7), .o_data(base11));
    delay #(.WIDTH(6), .STAGES(3)) u_shift (.i_clk(i_clk), .i_data(shift7), .o_data(shift10));
    delay #(.WIDTH(1), .STAGES(12)) u_valid (.i_clk(i_clk), .i_data(i_valid), .o_data(valid12));
    round_shift u_round (.i_clk(i_clk), .i_value(p10), .i_shift(shift10), .i_add({{32{base11[31]}}, base11}),
                         .o_value(rounded12));
    saturate32  u_y (.i_value(rounded12), .o_value(y_next), .o_changed(y_changed));
    wire signed [32:0] y13 = {o_y[31], o_y}, high = {1'b0, i_high};
    wire above = y13 > high, under = y13 < -high;
    always @(posedge i_clk) begin
        o_y       <= valid12 ? y_next : 32'd0;
        o_y_valid <= valid12;
        changed13 <= valid12 && y_changed;
        o_result  <= above ? i_high : under ? 32'd0 - i_high : o_y;
        o_changed <= changed13 || (i_writes && (above || under));
    end
endmodule
`default_nettype wire
