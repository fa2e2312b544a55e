// As ram_sync, with a write enable per byte.
`default_nettype none
module ram_bytes #(
    parameter BYTES = 8,
    parameter DEPTH = 16,
    parameter ADDR  = $clog2(DEPTH)
) (
    input  wire               i_clk,
    input  wire [BYTES-1:0]   i_write,
    input  wire [ADDR-1:0]    i_write_address,
    input  wire [8*BYTES-1:0] i_write_data,
    input  wire               i_read,
    input  wire [ADDR-1:0]    i_read_address,
    output reg  [8*BYTES-1:0] o_read_data
);
    reg [8*BYTES-1:0] memory [0:DEPTH-1];
    integer i;
`ifndef SYNTHESIS  // block RAM starts as zero; thousands of initial values only slow synthesis down
    initial for (i = 0; i < DEPTH; i = i + 1) memory[i] = {8*BYTES{1'b0}};
`endif
    always @(posedge i_clk) begin
        for (i = 0; i < BYTES; i = i + 1)
            if (i_write[i]) memory[i_write_address][8*i +: 8] <= i_write_data[8*i +: 8];
        if (i_read) o_read_data <= memory[i_read_address];
    end
endmodule
`default_nettype wire
