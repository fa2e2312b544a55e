// One write port, one asynchronous read port: distributed memory.
`default_nettype none
module ram_lut #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDR  = $clog2(DEPTH)
) (
    input  wire             i_clk,
    input  wire             i_write,
    input  wire [ADDR-1:0]  i_write_address,
    input  wire [WIDTH-1:0] i_write_data,
    input  wire [ADDR-1:0]  i_read_address,
    output wire [WIDTH-1:0] o_read_data
);
    reg [WIDTH-1:0] memory [0:DEPTH-1];
`ifndef SYNTHESIS  // block RAM starts as zero; thousands of initial values only slow synthesis down
    integer i;
    initial for (i = 0; i < DEPTH; i = i + 1) memory[i] = {WIDTH{1'b0}};
`endif
    always @(posedge i_clk) if (i_write) memory[i_write_address] <= i_write_data;
    assign o_read_data = memory[i_read_address];
endmodule
`default_nettype wire
