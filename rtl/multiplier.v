// TOKENS products of one factor, LATENCY cycles after the operands: x[t] * factor, |factor| <= 255.
`default_nettype none
module multiplier #(
    parameter TOKENS  = 2,
    parameter BITS    = 8,
    parameter LATENCY = 3,
    parameter PBITS   = BITS + 8
) (
    input  wire                    i_clk,
    input  wire [TOKENS*BITS-1:0]  i_x,
    input  wire [8:0]              i_factor,
    output wire [TOKENS*PBITS-1:0] o_product
);
    reg  [TOKENS*BITS-1:0]  x;
    reg  [8:0]              factor;
    wire [TOKENS*PBITS-1:0] product;
    genvar t;
    always @(posedge i_clk) begin
        x      <= i_x;
        factor <= i_factor;
    end
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_token
            wire signed [PBITS-1:0] a = {{(PBITS-BITS){x[BITS*t+BITS-1]}}, x[BITS*t +: BITS]};
            wire signed [PBITS-1:0] b = {{(PBITS-9){factor[8]}}, factor};
            assign product[PBITS*t +: PBITS] = a * b;
        end
        if (LATENCY == 1) begin : g_direct
            assign o_product = product;
        end else begin : g_delay
            delay #(.WIDTH(TOKENS*PBITS), .STAGES(LATENCY-1)) u_delay (
                .i_clk(i_clk), .i_data(product), .o_data(o_product));
        end
    endgenerate
endmodule
`default_nettype wire
