// Sixteen counters of 0..15. Semaphores 4u..4u+3 are posted by unit u+1 only; a take and a post in one cycle cancel.
`default_nettype none
module semaphores (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire [15:0] i_post,
    input  wire [15:0] i_take,
    output reg  [15:0] o_ready,  // counts other than 0
    output wire [3:0]  o_overflow   // a cycle late, by the unit that posted
);
    reg  [63:0] counts;
    reg  [15:0] over;
    genvar s;
    generate
        for (s = 0; s < 16; s = s + 1) begin : g_semaphore
            wire [3:0] count = counts[4*s +: 4];
            always @(posedge i_clk) begin
                over[s] <= !i_rst && count == 4'd15 && i_post[s] && !i_take[s];
                if (i_rst) {o_ready[s], counts[4*s +: 4]} <= 5'd0;
                else if (i_post[s] && !i_take[s]) {o_ready[s], counts[4*s +: 4]} <= {count != 4'd15, count + 4'd1};
                else if (i_take[s] && !i_post[s]) {o_ready[s], counts[4*s +: 4]} <= {count != 4'd1, count - 4'd1};
            end
        end
    endgenerate
    assign o_overflow = {|over[15:12], |over[11:8], |over[7:4], |over[3:0]};
endmodule
`default_nettype wire
