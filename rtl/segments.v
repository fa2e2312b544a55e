// The nine segments as SEGW and SEGA set them, read by index.
// SEGW half: {slot, format, group stride, block stride, groups, line}; SEGA half: {sum, scaled, lines, scale base, acc base}.
`default_nettype none
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
    wire unused_misc = &{1'b0, i_misc[16:8]};
    ram_lut #(.WIDTH(72), .DEPTH(16)) u_w (
        .i_clk(i_clk), .i_write(i_write_w), .i_write_address(i_segment),
        .i_write_data({i_misc[7:4], i_misc[3:0], i_x[31:16], i_x[15:0], i_z, i_y}),
        .i_read_address(i_index), .o_read_data(o_w));
    ram_lut #(.WIDTH(50), .DEPTH(16)) u_a (
        .i_clk(i_clk), .i_write(i_write_a), .i_write_address(i_segment),
        .i_write_data({i_misc[1], i_misc[0], i_x[15:0], i_z, i_y}),
        .i_read_address(i_index), .o_read_data(o_a));
endmodule
`default_nettype wire
