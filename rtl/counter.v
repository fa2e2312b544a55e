// One performance counter: 64 bits, a small increment each cycle.
`default_nettype none
module counter (
    input  wire        i_clk,
    input  wire        i_clear,
    input  wire [15:0] i_add,
    output reg  [63:0] o_value
);
    initial o_value = 64'd0;
    always @(posedge i_clk)
        if (i_clear) o_value <= 64'd0;
        else o_value <= o_value + {48'd0, i_add};
endmodule
`default_nettype wire
