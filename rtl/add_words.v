// FIELDS sums modulo 2^BITS: o = i_value + (i_replace ? 0 : i_old).
`default_nettype none
module add_words #(
    parameter FIELDS = 8,
    parameter BITS   = 32
) (
    input  wire                   i_replace,
    input  wire [FIELDS*BITS-1:0] i_old,
    input  wire [FIELDS*BITS-1:0] i_value,
    output wire [FIELDS*BITS-1:0] o_sum
);
    genvar f;
    generate
        for (f = 0; f < FIELDS; f = f + 1) begin : g_field
            wire [BITS-1:0] old = i_replace ? {BITS{1'b0}} : i_old[BITS*f +: BITS];
            assign o_sum[BITS*f +: BITS] = old + i_value[BITS*f +: BITS];
        end
    endgenerate
endmodule
`default_nettype wire
