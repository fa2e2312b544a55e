// What the free multiplier of reuse_check leaves open: decoder, factor, the real multiplier and the sign together give
// activation * value of the code, for every activation, code, format and codebook. Real width, one token, latency 1.
`default_nettype none
module product_check #(
    parameter BITS  = 8,
    parameter PBITS = BITS + 8
) (
    input wire            i_clk,
    input wire [BITS-1:0] i_x,
    input wire [7:0]      i_raw,
    input wire [3:0]      i_format,
    input wire [127:0]    i_entries
);
    wire [7:0]       index;
    wire             negative, zero;
    wire [8:0]       factor;
    wire [PBITS-1:0] product;
    code_decode u_decode (.i_raw(i_raw), .i_format(i_format), .o_index(index), .o_negative(negative), .o_zero(zero));
    code_factor u_factor (.i_index(index), .i_codebook(i_format == 4'd8), .i_signed(i_format < 4'd4), .i_entries(i_entries),
                          .o_factor(factor));
    multiplier #(.TOKENS(1), .BITS(BITS), .LATENCY(1)) u_multiplier (
        .i_clk(i_clk), .i_x(i_x), .i_factor(factor), .o_product(product));
    reg signed [8:0] value;
    always @* begin
        assume (i_format <= 4'd8);
        case (i_format)
            4'd0: value = $signed(i_raw[1:0]);
            4'd1: value = $signed(i_raw[2:0]);
            4'd2: value = $signed(i_raw[3:0]);
            4'd3: value = $signed(i_raw);
            4'd4: value = {7'd0, i_raw[1:0]};
            4'd5: value = {6'd0, i_raw[2:0]};
            4'd6: value = {5'd0, i_raw[3:0]};
            4'd7: value = {1'b0, i_raw};
            default: value = $signed(i_entries[8*i_raw[3:0] +: 8]);
        endcase
    end
    reg                     past, was_zero, was_negative;
    reg signed [BITS-1:0]   was_x;
    reg signed [8:0]        was_value;
    wire signed [PBITS-1:0] expected = was_x * was_value;
    wire [PBITS-1:0]        found = was_zero ? {PBITS{1'b0}} : was_negative ? {PBITS{1'b0}} - product : product;
    initial past = 1'b0;
    always @(posedge i_clk) {past, was_zero, was_negative, was_x, was_value} <= {1'b1, zero, negative, i_x, value};
    always @* if (past) product_is_the_arithmetic_one: assert (found == expected);
endmodule
`default_nettype wire
