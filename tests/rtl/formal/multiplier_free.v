// Stands for rtl/multiplier.v in proofs: a free function. A product is the pair (x less its top bit, factor), so two products
// are equal only if factor and the rest of x are; nothing in the engine but the sign's negation looks into a product.
`default_nettype none
module multiplier #(
    parameter TOKENS  = 2,
    parameter BITS    = 3,
    parameter LATENCY = 3,
    parameter PBITS   = BITS + 8
) (
    input  wire                    i_clk,
    input  wire [TOKENS*BITS-1:0]  i_x,
    input  wire [8:0]              i_factor,
    output wire [TOKENS*PBITS-1:0] o_product
);
    wire [TOKENS*PBITS-1:0] product;
    genvar t;
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_token
            assign product[PBITS*t +: PBITS] = {i_x[BITS*t +: BITS-1], i_factor};
        end
    endgenerate
    delay #(.WIDTH(TOKENS*PBITS), .STAGES(LATENCY)) u_delay (.i_clk(i_clk), .i_data(product), .o_data(o_product));
endmodule
`default_nettype wire
