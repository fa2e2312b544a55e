// SUM, MAX or ABSMAX over the valid elements of each row of VMAP; kept for each row until the next reduction of it.
// A word's elements are combined two by two, a level a cycle, before they meet the row's.
`default_nettype none
`include "axlora_isa.vh"
module vector_reduce #(
    parameter VECTOR_LANES = 2
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_element,
    input  wire                       i_end,
    input  wire [5:0]                 i_row,
    input  wire [1:0]                 i_reduction,
    input  wire [32*VECTOR_LANES-1:0] i_y,
    input  wire [VECTOR_LANES-1:0]    i_valid,
    input  wire [5:0]                 i_read_row,
    output wire signed [63:0]         o_reduced
);
    localparam LEVELS = $clog2(VECTOR_LANES);
    // Node n: leaves are V..2V-1, node n combines 2n and 2n+1, node 1 is the word's. 36 bits hold a sum of sixteen.
    wire [36*2*VECTOR_LANES-1:0] node;
    wire                         sum   = i_reduction == `AXL_REDUCE_SUM;
    wire signed [35:0]           least = i_reduction == `AXL_REDUCE_MAX ? -36'sd2147483648 : 36'sd0;
    assign node[35:0] = 36'd0;
    wire                         unused_node = &{1'b0, node[35:0]};
    genvar n;
    generate
        for (n = 0; n < VECTOR_LANES; n = n + 1) begin : g_leaf
            wire signed [35:0] y = {{4{i_y[32*n+31]}}, i_y[32*n +: 32]};
            reg  signed [35:0] own;
            always @(posedge i_clk) own <= !i_valid[n] ? least : i_reduction == `AXL_REDUCE_ABSMAX && y[35] ? -y : y;
            assign node[36*(VECTOR_LANES+n) +: 36] = own;
        end
        for (n = 1; n < VECTOR_LANES; n = n + 1) begin : g_node
            wire signed [35:0] one = node[36*(2*n) +: 36], two = node[36*(2*n+1) +: 36];
            reg  signed [35:0] both;
            always @(posedge i_clk) both <= sum ? one + two : one > two ? one : two;
            assign node[36*n +: 36] = both;
        end
    endgenerate

    wire       element, last;
    wire [5:0] row;
    delay #(.WIDTH(8), .STAGES(LEVELS + 1)) u_word (
        .i_clk(i_clk), .i_data({i_element && !i_rst, i_end, i_row}), .o_data({element, last, row}));
    reg  signed [63:0] total;
    reg                fresh;
    wire signed [63:0] own  = {{28{node[71]}}, node[71:36]};
    wire signed [63:0] next = fresh ? own : sum ? total + own : own > total ? own : total;
    wire               keep = element && last;
    initial fresh = 1'b1;
    ram_lut #(.WIDTH(64), .DEPTH(64)) u_reduced (
        .i_clk(i_clk), .i_write(keep), .i_write_address(row), .i_write_data(next), .i_read_address(i_read_row),
        .o_read_data(o_reduced));
    always @(posedge i_clk) begin
        if (i_rst) fresh <= 1'b1;
        else if (element) fresh <= last;
        if (element) total <= next;
    end
endmodule
`default_nettype wire
