// The nine segments as SEGW and SEGA set them, read by index.
// o_w: {slot, format, group stride, block stride, groups, line}; o_a: {sums, scaled, scale stride, scale line, acc}.
`default_nettype none
`include "axlora_isa.vh"
module segments (
    input  wire        i_clk,
    input  wire        i_write_w,
    input  wire        i_write_a,
    input  wire [3:0]  i_segment,
    input  wire [16:0] i_misc,
    input  wire [31:0] i_x,
    input  wire [15:0] i_y,
    input  wire [15:0] i_z,
    input  wire [3:0]  i_index,
    output wire [71:0] o_w,
    output wire [49:0] o_a
);
    wire unused_misc = &{1'b0, i_misc[`AXL_SEGW_SPARE]};
    ram_lut #(.WIDTH(72), .DEPTH(16)) u_w (
        .i_clk(i_clk), .i_write(i_write_w), .i_write_address(i_segment),
        .i_write_data({i_misc[`AXL_SEGW_SLOT], i_misc[`AXL_SEGW_FORMAT], i_x[`AXL_SEGW_GROUP_STRIDE], i_x[`AXL_SEGW_BLOCK_STRIDE], i_z, i_y}),
        .i_read_address(i_index), .o_read_data(o_w));
    ram_lut #(.WIDTH(50), .DEPTH(16)) u_a (
        .i_clk(i_clk), .i_write(i_write_a), .i_write_address(i_segment),
        .i_write_data({i_misc[`AXL_SEGA_SUMS], i_misc[`AXL_SEGA_SCALED], i_x[`AXL_SEGA_SCALE_STRIDE], i_z, i_y}),
        .i_read_address(i_index), .o_read_data(o_a));
endmodule
`default_nettype wire
