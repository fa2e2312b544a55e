// All performance counters, read by index; 16 bits of increment each, in the order of isa/opcodes.py.
`default_nettype none
`include "axlora_isa.vh"
module counters (
    input  wire                         i_clk,
    input  wire                         i_clear,
    input  wire [16*`AXL_COUNTERS-1:0]  i_add,
    input  wire [8:0]                   i_index,
    output wire [63:0]                  o_value
);
    wire [64*`AXL_COUNTERS-1:0] values;
    genvar n;
    generate
        for (n = 0; n < `AXL_COUNTERS; n = n + 1) begin : g_counter
            counter u_counter (.i_clk(i_clk), .i_clear(i_clear), .i_add(i_add[16*n +: 16]), .o_value(values[64*n +: 64]));
        end
    endgenerate
    assign o_value = i_index < `AXL_COUNTERS ? values[64*i_index +: 64] : 64'd0;
endmodule
`default_nettype wire
