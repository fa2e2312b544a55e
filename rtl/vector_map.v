// One element of VMAP. Stage 2 operands in, stage 10 result out (registered):
//   3: a' = sat32(a - less)     4: d = a' - low, the interval's number to the table     5: factors and the table's base
//   6: products     7: p     8: rne(p, shift) + base     9: y = sat32     10: clamped to the element's size
// Elements that are not valid give 0. The table answers one cycle after o_record.
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
    input  wire [15:0] i_last,
    input  wire [5:0]  i_slope_shift,
    input  wire        i_writes,
    input  wire [31:0] i_high,
    output wire [15:0] o_interval,
    input  wire [63:0] i_record,
    output reg  [31:0] o_y,
    output reg         o_y_valid,
    output reg  [31:0] o_result,
    output reg         o_changed
);
    wire signed [63:0] a2 = {{32{i_a[31]}}, i_a}, less2 = {{32{i_less[31]}}, i_less}, low3 = {{32{i_low[31]}}, i_low};
    wire signed [31:0] near_next, f_next, y_next;
    wire               near_changed, f_changed, y_changed;
    wire               unused_changed = &{1'b0, near_changed, f_changed};
    saturate32 u_near (.i_value(a2 - less2), .o_value(near_next), .o_changed(near_changed));

    reg signed [31:0] a3, b3, b4, a4, factor3, factor4, m5, n5, base5, base6, base7;
    reg signed [15:0] cb5;
    reg signed [31:0] b5;
    reg        [5:0]  shift3, shift4, shift5, shift6, shift7;
    reg signed [63:0] d4, p6, q6, p7, r8;
    reg        [15:0] index4;
    reg        [5:0]  valid;
    reg               changed9;
    wire signed [63:0] a3_wide = {{32{a3[31]}}, a3};
    wire signed [63:0] d3      = a3_wide - low3;
    wire signed [63:0] index3  = d3 >>> i_step;
    wire signed [63:0] last3   = {48'd0, i_last};
    assign o_interval = index3 < 64'sd0 ? 16'd0 : index3 > last3 ? i_last : index3[15:0];
    wire signed [63:0] start4 = {48'd0, index4} << i_step;
    saturate32 u_f (.i_value(d4 - start4), .o_value(f_next), .o_changed(f_changed));
    wire signed [31:0] ca = {{16{i_ca[15]}}, i_ca};

    wire signed [63:0] m5_wide = {{32{m5[31]}}, m5}, n5_wide = {{32{n5[31]}}, n5};
    wire signed [63:0] b5_wide = {{32{b5[31]}}, b5}, cb5_wide = {{48{cb5[15]}}, cb5}, base7_wide = {{32{base7[31]}}, base7};
    wire signed [63:0] rounded7, y_wide, high, y9;
    round_shift u_round (.i_value(p7), .i_shift(shift7), .o_value(rounded7));
    saturate32  u_y (.i_value(r8), .o_value(y_next), .o_changed(y_changed));
    assign y_wide = {{32{y_next[31]}}, y_next};
    assign high   = {32'd0, i_high};
    assign y9     = {{32{o_y[31]}}, o_y};
    always @(posedge i_clk) begin
        a3      <= near_next;
        b3      <= i_b;
        factor3 <= i_factor;
        shift3  <= i_factor_shift;
        a4      <= a3;
        b4      <= b3;
        factor4 <= factor3;
        shift4  <= shift3;
        d4      <= d3;
        index4  <= o_interval;
        m5      <= i_function == `AXL_MAP_TABLE ? i_record[63:32] : a4;
        n5      <= i_function == `AXL_MAP_TABLE ? f_next : i_function == `AXL_MAP_MAC ? ca
                 : i_function == `AXL_MAP_MUL ? b4 : factor4;
        b5      <= b4;
        cb5     <= i_function == `AXL_MAP_MAC ? i_cb : 16'd0;
        base5   <= i_function == `AXL_MAP_TABLE ? i_record[31:0] : 32'd0;
        shift5  <= i_function == `AXL_MAP_TABLE ? i_slope_shift : i_function == `AXL_MAP_SCALE ? shift4 : i_shift;
        p6      <= m5_wide * n5_wide;
        q6      <= b5_wide * cb5_wide;
        {base6, shift6} <= {base5, shift5};
        p7      <= p6 + q6;
        {base7, shift7} <= {base6, shift6};
        r8      <= rounded7 + base7_wide;
        valid   <= {valid[4:0], i_valid};
        o_y       <= valid[5] ? y_next : 32'd0;
        o_y_valid <= valid[5];
        changed9  <= valid[5] && y_changed;
        o_result  <= y9 > high ? i_high : y9 < -high ? 32'd0 - i_high : o_y;
        o_changed <= changed9 || (i_writes && (y9 > high || y9 < -high));
    end
    wire unused_wide = &{1'b0, y_wide};
endmodule
`default_nettype wire
