// A lane's walk over (block b, active segment k, column group j): one step per i_advance.
//   group index  gi = b*block_stride[k] + j*group_stride[k] mod 2^16
// b*block_stride is kept per segment and stepped at the segment's end.
`default_nettype none
`include "axlora_isa.vh"
module lane_sequence #(
    parameter TOKENS = 2
) (
    input  wire               i_clk,
    input  wire               i_rst,
    input  wire               i_table_write,
    input  wire [3:0]         i_table_index,
    input  wire [68+TOKENS:0] i_table,
    input  wire               i_start,
    input  wire [3:0]         i_last_segment,
    input  wire [15:0]        i_last_block,
    input  wire [15:0]        i_line,
    input  wire               i_advance,
    output reg                o_valid,
    output wire [15:0]        o_group,
    output wire [15:0]        o_word_line,
    output wire [15:0]        o_line,
    output wire [3:0]         o_format,
    output wire [TOKENS-1:0]  o_mask,
    output wire               o_clear
);
    reg  [15:0] b, j, offset;
    reg  [3:0]  k;
    wire [68+TOKENS:0] entry;
    wire [15:0] kept, base;
    ram_lut #(.WIDTH(69+TOKENS), .DEPTH(16)) u_table (
        .i_clk(i_clk), .i_write(i_table_write), .i_write_address(i_table_index), .i_write_data(i_table),
        .i_read_address(k), .o_read_data(entry));
    wire [15:0] line, last_group, block_stride, group_stride;
    wire        clear;
    assign {o_mask, clear, o_format, group_stride, block_stride, last_group, line} = entry;
    wire        end_j = j == last_group;
    wire        end_k = k == i_last_segment;
    wire        end_b = b == i_last_block;
    ram_lut #(.WIDTH(16), .DEPTH(16)) u_base (
        .i_clk(i_clk), .i_write(i_advance && end_j), .i_write_address(k), .i_write_data(base + block_stride),
        .i_read_address(k), .o_read_data(kept));
    assign base     = b == 16'd0 ? 16'd0 : kept;
    assign o_group     = base + offset;
    assign o_word_line = line;
    assign o_line      = i_line + b;
    assign o_clear     = clear && j == 16'd0;
    always @(posedge i_clk) begin
        if (i_start) begin
            b      <= 16'd0;
            j      <= 16'd0;
            k      <= 4'd0;
            offset <= 16'd0;
        end else if (i_advance) begin
            j      <= end_j ? 16'd0 : j + 16'd1;
            offset <= end_j ? 16'd0 : offset + group_stride;
            if (end_j) k <= end_k ? 4'd0 : k + 4'd1;
            if (end_j && end_k) b <= b + 16'd1;
        end
        if (i_rst) o_valid <= 1'b0;
        else if (i_start) o_valid <= 1'b1;
        else if (i_advance && end_j && end_k && end_b) o_valid <= 1'b0;
    end
endmodule
`default_nettype wire
