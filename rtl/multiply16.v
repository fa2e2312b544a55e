// i_a * i_b mod 2^64, two cycles later: i_a signed of WIDTH (32 or 64) bits, i_b unsigned of 16. Products of 16 bits first.
`default_nettype none
module multiply16 #(
    parameter WIDTH = 64
) (
    input  wire                    i_clk,
    input  wire signed [WIDTH-1:0] i_a,
    input  wire        [15:0]      i_b,
    output reg  signed [63:0]      o_product
);
    localparam LAST = WIDTH / 16 - 1;
    (* mem2reg *) reg [31:0] low [0:LAST-1];
    reg  signed [32:0] high;
    wire        [63:0] even, odd;
    wire               unused_high = &{1'b0, high};
    integer k;
    always @(posedge i_clk) begin
        for (k = 0; k < LAST; k = k + 1) low[k] <= i_a[16*k +: 16] * i_b;
        high      <= $signed(i_a[WIDTH-1 -: 16]) * $signed({1'b0, i_b});
        o_product <= even + odd;
    end
    generate
        if (WIDTH == 64) begin : g_wide
            assign even = {low[2], low[0]};
            assign odd  = {high[15:0], low[1], 16'd0};
        end else begin : g_narrow
            assign even = {32'd0, low[0]};
            assign odd  = {{15{high[32]}}, high, 16'd0};
        end
    endgenerate
endmodule
`default_nettype wire
