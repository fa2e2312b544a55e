// Which group is popped next, and what its sums do. pop: every FIFO has a group, and the group one row earlier (R pops ago)
// was popped at least 3 cycles ago; that binds only for R = 1, 2 (i_short; 0 for longer rows).
`default_nettype none
module tree_sequence #(
    parameter TOKENS       = 2,
    parameter GROUP_SCALES = 1,
    parameter ACC_WORDS    = 1024,
    parameter GROUP_WORDS  = 128,
    parameter SBUF_LINES   = 512
) (
    input  wire               i_clk,
    input  wire               i_rst,
    input  wire               i_run,
    input  wire               i_table_write,
    input  wire [3:0]         i_table_index,
    input  wire [65+TOKENS:0] i_table,
    input  wire               i_start,
    input  wire [3:0]         i_last_segment,
    input  wire [15:0]        i_last_block,
    input  wire [15:0]        i_acc_offset,
    input  wire [11:0]        i_last_scale,
    input  wire               i_first,
    input  wire [1:0]         i_short,
    input  wire               i_all_some,
    output wire               o_pop,
    output wire               o_last_pop,
    output wire [15:0]        o_acc,
    output wire [15:0]        o_column,
    output wire [15:0]        o_scale_line,
    output wire [TOKENS-1:0]  o_mask,
    output wire               o_scaled,
    output wire               o_opens,
    output wire               o_closes,
    output wire               o_sum,
    output wire               o_overwrite,
    output wire               o_outside,
    output wire               o_wait_product,
    output wire               o_wait_written
);
    localparam [16:0] A = ACC_WORDS[16:0], G = GROUP_WORDS[16:0], S = SBUF_LINES[16:0];
    reg         active, ago1, ago2, first_group;
    reg  [15:0] b, j, column;
    reg  [11:0] inner;
    reg  [3:0]  k;
    wire [65+TOKENS:0] entry;
    wire [15:0] kept, base;
    ram_lut #(.WIDTH(66+TOKENS), .DEPTH(16)) u_table (
        .i_clk(i_clk), .i_write(i_table_write), .i_write_address(i_table_index), .i_write_data(i_table),
        .i_read_address(k), .o_read_data(entry));
    wire [15:0] last_group = entry[15:0], acc = entry[31:16], scale_base = entry[47:32], lines = entry[63:48];
    wire        end_j = j == last_group;
    wire        end_k = k == i_last_segment;
    wire        end_b = b == i_last_block;
    wire        close = inner == i_last_scale || end_b;
    // scale_base + g*lines, kept per segment
    ram_lut #(.WIDTH(16), .DEPTH(16)) u_scale (
        .i_clk(i_clk), .i_write(o_pop && end_j && close), .i_write_address(k), .i_write_data(base + lines),
        .i_read_address(k), .o_read_data(kept));
    assign base = first_group ? scale_base : kept;

    wire blocked = (i_short == 2'd1 && (ago1 || ago2)) || (i_short == 2'd2 && ago1 && ago2);
    assign o_wait_product = i_run && active && !i_all_some;
    assign o_wait_written = i_run && active && i_all_some && blocked;
    assign o_pop        = i_run && active && i_all_some && !blocked;
    assign o_last_pop   = o_pop && end_j && end_k && end_b;
    assign o_acc        = acc + i_acc_offset + j;
    assign o_column     = column;
    assign o_scale_line = base + j;
    assign o_mask       = entry[66 +: TOKENS];
    assign o_scaled     = entry[64] && GROUP_SCALES != 0;
    assign o_sum        = entry[65];
    assign o_opens      = inner == 12'd0;
    assign o_closes     = close;
    assign o_overwrite  = i_first && (o_scaled ? first_group : b == 16'd0);
    wire   writes       = !o_scaled || (close && !o_sum);
    assign o_outside    = o_pop && ((writes && {1'b0, o_acc} >= A) || (o_scaled && {1'b0, column} >= G)
                                    || (o_scaled && writes && {1'b0, o_scale_line} >= S));
    always @(posedge i_clk) begin
        if (i_start) begin
            b           <= 16'd0;
            j           <= 16'd0;
            k           <= 4'd0;
            column      <= 16'd0;
            inner       <= 12'd0;
            first_group <= 1'b1;
        end else if (o_pop) begin
            j      <= end_j ? 16'd0 : j + 16'd1;
            column <= end_j && end_k ? 16'd0 : column + 16'd1;
            if (end_j) k <= end_k ? 4'd0 : k + 4'd1;
            if (end_j && end_k) begin
                b     <= b + 16'd1;
                inner <= close ? 12'd0 : inner + 12'd1;
                if (close) first_group <= 1'b0;
            end
        end
        if (i_rst) begin
            active <= 1'b0;
            ago1   <= 1'b0;
            ago2   <= 1'b0;
        end else begin
            ago1 <= o_pop;
            ago2 <= ago1;
            if (i_start) active <= 1'b1;
            else if (o_last_pop) active <= 1'b0;
        end
    end
endmodule
`default_nettype wire
