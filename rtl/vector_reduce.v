// SUM, MAX or ABSMAX over the valid elements of each row of VMAP; kept for each of eight rows until the next reduction of it.
`default_nettype none
`include "axlora_isa.vh"
module vector_reduce #(
    parameter VECTOR_LANES = 2
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_element,
    input  wire                       i_end,
    input  wire [2:0]                 i_row,
    input  wire [1:0]                 i_reduction,
    input  wire [32*VECTOR_LANES-1:0] i_y,
    input  wire [VECTOR_LANES-1:0]    i_valid,
    input  wire [2:0]                 i_read_row,
    output wire signed [63:0]         o_reduced
);
    reg  signed [63:0] reduced [0:7];
    reg  signed [63:0] total, next, own;
    reg                fresh;
    integer            e;
    initial begin
        fresh = 1'b1;
        for (e = 0; e < 8; e = e + 1) reduced[e] = 64'sd0;
    end
    assign o_reduced = reduced[i_read_row];
    always @* begin
        next = !fresh ? total : i_reduction == `AXL_REDUCE_MAX ? -64'sd2147483648 : 64'sd0;
        own  = 64'sd0;
        for (e = 0; e < VECTOR_LANES; e = e + 1) begin
            own = {{32{i_y[32*e+31]}}, i_y[32*e +: 32]};
            if (i_reduction == `AXL_REDUCE_ABSMAX && own < 64'sd0) own = -own;
            if (i_valid[e]) next = i_reduction == `AXL_REDUCE_SUM ? next + own : own > next ? own : next;
        end
    end
    always @(posedge i_clk) begin
        if (i_rst) fresh <= 1'b1;
        else if (i_element) fresh <= i_end;
        if (i_element) total <= next;
        if (i_element && i_end && i_reduction != `AXL_REDUCE_NONE) reduced[i_row] <= next;
    end
endmodule
`default_nettype wire
