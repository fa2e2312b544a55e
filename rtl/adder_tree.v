// The sum of LANES values, log2(LANES) registered levels; FIELDS sums side by side.
`default_nettype none
module adder_tree #(
    parameter LANES  = 8,
    parameter FIELDS = 8,
    parameter IN     = 16,
    parameter OUT    = IN + $clog2(LANES)
) (
    input  wire                       i_clk,
    input  wire [LANES*FIELDS*IN-1:0] i_values,
    output wire [FIELDS*OUT-1:0]      o_sums
);
    localparam LEVELS = $clog2(LANES);
    // Node n of field f: leaves are LANES..2*LANES-1, node n adds 2n and 2n+1, node 1 is the sum.
    genvar f, n;
    generate
        for (f = 0; f < FIELDS; f = f + 1) begin : g_field
            wire [2*LANES*OUT-1:0] node;
            assign node[OUT-1:0] = {OUT{1'b0}};
            for (n = 0; n < LANES; n = n + 1) begin : g_leaf
                wire [IN-1:0] value = i_values[IN*(n*FIELDS+f) +: IN];
                assign node[OUT*(LANES+n) +: OUT] = {{LEVELS{value[IN-1]}}, value};
            end
            for (n = 1; n < LANES; n = n + 1) begin : g_node
                reg [OUT-1:0] sum;
                always @(posedge i_clk) sum <= node[OUT*(2*n) +: OUT] + node[OUT*(2*n+1) +: OUT];
                assign node[OUT*n +: OUT] = sum;
            end
            assign o_sums[OUT*f +: OUT] = node[OUT +: OUT];
            wire unused_node = &{1'b0, node[OUT-1:0]};
        end
    endgenerate
endmodule
`default_nettype wire
