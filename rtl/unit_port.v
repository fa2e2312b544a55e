// What every unit has in front of it: a queue of AXL_QUEUE_DEPTH instructions, the wait for semaphores, and the posts at the end.
// The first of the queue is a register. Accept in cycle a: it is there, unit idle, waits met. i_single: the accepted instruction is over at a + 1.
// Otherwise the unit raises i_done in its last cycle; posts count from the cycle after.
`default_nettype none
`include "axlora_isa.vh"
module unit_port (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_push,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_full,
    output wire                       o_quiet,
    input  wire [15:0]                i_ready,
    output wire [15:0]                o_take,
    output wire [15:0]                o_post,
    output wire                       o_accept,
    output wire [`AXL_ENTRY_BITS-1:0] o_entry,
    output wire [31:0]                o_pc,
    input  wire                       i_single,
    input  wire                       i_done,
    output reg                        o_busy,
    output wire                       o_count_weights,
    output wire                       o_count_semaphore,
    output wire                       o_count_idle
);
    localparam E = `AXL_ENTRY_BITS;
    localparam DEPTH = `AXL_QUEUE_DEPTH;  // a power of two
    localparam LOGD  = $clog2(DEPTH);
    reg  [LOGD-1:0] head, tail;  // of those behind the first
    reg  [LOGD:0]   count;
    reg  [9:0]  posts;
    reg  [31:0] pc;
    reg  [E-1:0] first;
    wire [E-1:0] next;
    wire        here   = count != 0;
    wire        direct = i_push && (!here || (count == 1 && o_accept));
    ram_lut #(.WIDTH(E), .DEPTH(DEPTH)) u_queue (
        .i_clk(i_clk), .i_write(i_push && !direct), .i_write_address(tail), .i_write_data(i_entry),
        .i_read_address(head), .o_read_data(next));
    assign o_entry = first;

    function [15:0] named(input [4:0] field);
        named = field[4] ? 16'd1 << field[3:0] : 16'd0;
    endfunction

    wire [9:0]  wait_fields = o_entry[`AXL_ENTRY_WAITS];
    wire [9:0]  post_fields = o_accept ? o_entry[`AXL_ENTRY_POSTS] : posts;
    wire [15:0] waits   = named(wait_fields[4:0]) | named(wait_fields[9:5]);
    wire        unmet_a = wait_fields[4] && !i_ready[wait_fields[3:0]], unmet_b = wait_fields[9] && !i_ready[wait_fields[8:5]];
    wire        unmet   = unmet_a || unmet_b;
    wire        weights = (unmet_a && wait_fields[3:2] == 2'd0) || (unmet_b && wait_fields[8:7] == 2'd0);

    assign o_accept = i_run && here && !o_busy && !unmet;
    assign o_take   = o_accept ? waits : 16'd0;
    assign o_post   = (o_accept && i_single) || i_done ? named(post_fields[4:0]) | named(post_fields[9:5]) : 16'd0;
    assign o_pc     = o_accept ? o_entry[`AXL_ENTRY_PC] : pc;
    assign o_full   = count == DEPTH;
    assign o_quiet  = !here && !o_busy;

    assign o_count_weights   = i_run && !o_busy && here && weights;
    assign o_count_semaphore = i_run && !o_busy && here && unmet && !weights;
    assign o_count_idle      = i_run && !o_busy && (!here || o_accept);

    always @(posedge i_clk) begin
        if (o_accept || !here) first <= direct ? i_entry : next;
        if (o_accept) begin
            posts <= o_entry[`AXL_ENTRY_POSTS];
            pc    <= o_entry[`AXL_ENTRY_PC];
        end
        if (i_rst) begin
            head   <= 0;
            tail   <= 0;
            count  <= 0;
            o_busy <= 1'b0;
        end else begin
            head  <= head + {{LOGD-1{1'b0}}, o_accept && count > 1};
            tail  <= tail + {{LOGD-1{1'b0}}, i_push && !direct};
            count <= count + {{LOGD{1'b0}}, i_push} - {{LOGD{1'b0}}, o_accept};
            if (o_accept && !i_single) o_busy <= 1'b1;
            else if (i_done) o_busy <= 1'b0;
        end
    end
endmodule
`default_nettype wire
