// The loop stack of fetch: LOOP pushes {first instruction, passes left}; ENDLOOP goes back while passes are left.
// A count of zero skips the body and its ENDLOOP.
`default_nettype none
module loops (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire        i_loop,
    input  wire        i_end,
    input  wire [31:0] i_pc,
    input  wire [15:0] i_length,
    input  wire [15:0] i_count,
    output wire [31:0] o_target,
    output wire        o_skip,
    output wire        o_back,
    output wire        o_error
);
    reg  [2:0]  depth;
    reg  [31:0] first;
    reg  [15:0] left;
    wire [47:0] below;
    wire [1:0]  under = depth[1:0] - 2'd2;
    wire        push  = i_loop && i_count != 16'd0 && depth != 3'd4;
    wire        pop   = i_end && depth != 3'd0 && left == 16'd1;
    wire [1:0]  top   = depth[1:0] - 2'd1;
    ram_lut #(.WIDTH(48), .DEPTH(4)) u_stack (
        .i_clk(i_clk), .i_write(push), .i_write_address(top), .i_write_data({first, left}),
        .i_read_address(under), .o_read_data(below));
    assign o_skip   = i_loop && i_count == 16'd0;
    assign o_back   = i_end && left != 16'd1;
    assign o_error  = (i_loop && i_count != 16'd0 && depth == 3'd4) || (i_end && depth == 3'd0);
    assign o_target = o_skip ? i_pc + {12'd0, i_length, 4'd0} + 32'd32 : first;
    always @(posedge i_clk)
        if (i_rst) begin
            depth <= 3'd0;
            first <= 32'd0;
            left  <= 16'd0;
        end else if (push) begin
            depth <= depth + 3'd1;
            first <= i_pc + 32'd16;
            left  <= i_count;
        end else if (pop) begin
            depth <= depth - 3'd1;
            {first, left} <= below;
        end else if (o_back) left <= left - 16'd1;
endmodule
`default_nettype wire
