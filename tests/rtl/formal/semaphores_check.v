// The four units' ports before the real semaphores. Rules (kept by fetch's legality check and by the program): the two waits of
// an instruction differ, so do its posts; a unit posts its own semaphores only; each semaphore has one waiting unit; a unit
// ends only what it began. The queues' contents are arbitrary legal instructions.
// Proved for all sixteen at once, as long as no error was raised:
//   count     is posts so far less takes so far, 0..15: never negative, never above 15
//   take      an accepted instruction takes exactly one of each semaphore it waits for, and only when one is there
//   post      an instruction posts its semaphores exactly at its end
//   error     overflow is raised for a unit exactly in the cycle after one in which one of its counts would become 16
`default_nettype none
`include "axlora_isa.vh"
module semaphores_check (
    input wire                         i_clk,
    input wire                         i_rst,
    input wire                         i_run,
    input wire [3:0]                   i_push,
    input wire [`AXL_ENTRY_BITS-1:0]   i_entry,
    input wire [3:0]                   i_single,
    input wire [3:0]                   i_done
);
    localparam E = `AXL_ENTRY_BITS;
    (* anyconst *) reg [31:0] waiter;  // two bits a semaphore: its waiting unit
    wire [15:0]    ready;
    wire [3:0]     overflow, accept, busy, full;
    wire [4*E-1:0] head;
    wire [63:0]    take, post, counts;
    wire [39:0]    posts;
    genvar u, s;
    generate
        for (u = 0; u < 4; u = u + 1) begin : g_port
            unit_port u_port (
                .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_push(i_push[u]), .i_entry(i_entry), .o_full(full[u]),
                .i_ready(ready), .o_take(take[16*u +: 16]), .o_post(post[16*u +: 16]), .o_accept(accept[u]),
                .o_entry(head[E*u +: E]), .i_single(i_single[u]), .i_done(i_done[u]), .o_busy(busy[u]),
                .f_posts(posts[10*u +: 10]));
        end
    endgenerate
    semaphores u_semaphores (
        .i_clk(i_clk), .i_rst(i_rst), .i_post({post[63:60], post[43:40], post[23:20], post[3:0]}),
        .i_take(take[15:0] | take[31:16] | take[47:32] | take[63:48]), .o_ready(ready), .o_overflow(overflow),
        .f_counts(counts));

    reg past, was_raised;
    wire raised = was_raised || overflow != 4'd0;
    initial {past, was_raised} = 2'b00;
    always @(posedge i_clk) begin
        past   <= 1'b1;
        was_raised <= !i_rst && raised;
    end
    always @* assume (past || i_rst);

    function names(input [9:0] fields, input integer semaphore);
        names = (fields[4] && fields[3:0] == semaphore) || (fields[9] && fields[8:5] == semaphore);
    endfunction

    // What each unit does to each semaphore, from the instructions alone.
    wire [63:0] takes, gives;
    generate
        for (u = 0; u < 4; u = u + 1) begin : g_unit
            reg  [9:0] kept;
            wire [9:0] waits  = head[E*u + 93 +: 10];
            wire [9:0] wanted = head[E*u + 103 +: 10];
            always @(posedge i_clk) if (accept[u]) kept <= wanted;
            always @* begin
                if (i_done[u]) assume (busy[u]);
                if (i_push[u]) assume (!full[u]);
                assume (!(waits[4] && waits[9] && waits[3:0] == waits[8:5]));
                assume (!(wanted[4] && wanted[9] && wanted[3:0] == wanted[8:5]));
                assume ((!wanted[4] || wanted[3:2] == u) && (!wanted[9] || wanted[8:7] == u));
                if (waits[4]) assume (waiter[2*waits[3:0] +: 2] == u);
                if (waits[9]) assume (waiter[2*waits[8:5] +: 2] == u);
                if (past && busy[u]) begin
                    assert (posts[10*u +: 10] == kept);
                    assert ((!kept[4] || kept[3:2] == u) && (!kept[9] || kept[8:7] == u));
                end
            end
            for (s = 0; s < 16; s = s + 1) begin : g_each
                assign takes[16*u+s] = accept[u] && names(waits, s);
                assign gives[16*u+s] = (accept[u] && i_single[u] && names(wanted, s)) || (i_done[u] && names(kept, s));
                always @* if (past) begin
                    assert (take[16*u+s] == takes[16*u+s]);
                    assert (post[16*u+s] == gives[16*u+s]);
                end
            end
        end
        for (s = 0; s < 16; s = s + 1) begin : g_semaphore
            reg  [7:0] count;
            wire [2:0] took = takes[s] + takes[16+s] + takes[32+s] + takes[48+s];
            wire [2:0] gave = gives[s] + gives[16+s] + gives[32+s] + gives[48+s];
            wire       more = count + gave > 8'd15 + took;
            always @(posedge i_clk) count <= i_rst ? 8'd0 : count + gave - took;
            always @* if (past && !raised) begin
                assert (count <= 8'd15);
                assert (counts[4*s +: 4] == count);
                assert (ready[s] == (count != 8'd0));
                assert (took <= count);
                assert (took <= 3'd1 && gave <= 3'd1);
            end
        end
        for (u = 0; u < 4; u = u + 1) begin : g_error
            wire any = g_semaphore[4*u].more || g_semaphore[4*u+1].more || g_semaphore[4*u+2].more || g_semaphore[4*u+3].more;
            reg  was_any;
            always @(posedge i_clk) was_any <= any && !i_rst;
            always @* if (past && !was_raised) assert (overflow[u] == was_any);
        end
    endgenerate
endmodule
`default_nettype wire
