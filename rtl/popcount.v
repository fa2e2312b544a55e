// Number of ones.
`default_nettype none
module popcount #(
    parameter WIDTH = 4,
    parameter OUT   = $clog2(WIDTH + 1)
) (
    input  wire [WIDTH-1:0] i_bits,
    output reg  [OUT-1:0]   o_count
);
    integer i;
    always @* begin
        o_count = {OUT{1'b0}};
        for (i = 0; i < WIDTH; i = i + 1) o_count = o_count + {{(OUT-1){1'b0}}, i_bits[i]};
    end
endmodule
`default_nettype wire
