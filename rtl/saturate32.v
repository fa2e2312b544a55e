// Clamp to +-(2^31 - 1).
`default_nettype none
module saturate32 (
    input  wire signed [63:0] i_value,
    output wire signed [31:0] o_value,
    output wire               o_changed
);
    wire high = i_value > 64'sd2147483647;
    wire low  = i_value < -64'sd2147483647;
    assign o_value   = high ? 32'sh7fffffff : low ? 32'sh80000001 : i_value[31:0];
    assign o_changed = high || low;
endmodule
`default_nettype wire
