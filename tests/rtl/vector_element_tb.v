// vector_element with ports that cocotb sees.
`default_nettype none
module vector_element_tb #(
    parameter BITS = 32
) (
    input  wire            i_clk /*verilator public_flat_rw*/,
    input  wire [BITS-1:0] i_acc1 /*verilator public_flat_rw*/,
    input  wire [BITS-1:0] i_acc2 /*verilator public_flat_rw*/,
    input  wire [31:0]     i_bias /*verilator public_flat_rw*/,
    input  wire [15:0]     i_m1 /*verilator public_flat_rw*/,
    input  wire [15:0]     i_m2 /*verilator public_flat_rw*/,
    input  wire [5:0]      i_shift /*verilator public_flat_rw*/,
    input  wire            i_adapter /*verilator public_flat_rw*/,
    input  wire [4:0]      i_exponent /*verilator public_flat_rw*/,
    input  wire [15:0]     i_mantissa /*verilator public_flat_rw*/,
    input  wire [5:0]      i_token_shift /*verilator public_flat_rw*/,
    input  wire            i_bias_end /*verilator public_flat_rw*/,
    input  wire [3:0]      i_bias_shift /*verilator public_flat_rw*/,
    input  wire            i_token_scale /*verilator public_flat_rw*/,
    input  wire [4:0]      i_guard /*verilator public_flat_rw*/,
    input  wire [15:0]     i_zero_point /*verilator public_flat_rw*/,
    input  wire [31:0]     i_low /*verilator public_flat_rw*/,
    input  wire [31:0]     i_high /*verilator public_flat_rw*/,
    output wire [31:0]     o_magnitude /*verilator public_flat_rw*/,
    output wire [31:0]     o_result /*verilator public_flat_rw*/,
    output wire            o_changed /*verilator public_flat_rw*/
);
    vector_element #(.BITS(BITS)) u_element (
        .i_clk(i_clk), .i_acc1(i_acc1), .i_acc2(i_acc2), .i_bias(i_bias), .i_m1(i_m1), .i_m2(i_m2), .i_shift(i_shift),
        .i_adapter(i_adapter), .i_exponent(i_exponent), .i_mantissa(i_mantissa), .i_token_shift(i_token_shift),
        .i_quantize(1'b0), .i_bias_end(i_bias_end), .i_bias_shift(i_bias_shift), .i_token_scale(i_token_scale),
        .i_guard(i_guard), .i_zero_point(i_zero_point), .i_low(i_low), .i_high(i_high), .o_magnitude(o_magnitude),
        .o_result(o_result), .o_changed(o_changed));
endmodule
`default_nettype wire
