// The AXI4-Lite slave before any master that keeps the rules: its VALIDs and payloads stay until READY; AW and W come in any
// order; BREADY and RREADY are free; machine status and register data are free.
// Proved:
//   reset     VALID is low after a reset
//   stays     BVALID and RVALID stay until READY, and so does RDATA
//   requests  one B for each pair of AW and W, one R for each AR; none before, none without, none merged
//   ready     is a function of earlier cycles only (no path from an input to an output)
//   effect    a register is written in the cycle of both handshakes, with the address and the data of these
//   answers   a write is taken at most 2 cycles after both VALIDs, a read at most 3 after its own, cycles in which the response
//             before is not taken left out; the answer comes in the cycle after
`default_nettype none
`include "axlora_isa.vh"
module lite_check (
    input wire         i_clk,
    input wire         i_rst,
    input wire         i_awvalid,
    input wire [11:0]  i_awaddr,
    input wire         i_wvalid,
    input wire [31:0]  i_wdata,
    input wire         i_bready,
    input wire         i_arvalid,
    input wire [11:0]  i_araddr,
    input wire         i_rready,
    input wire [3:0]   i_state,
    input wire [39:0]  i_fault,
    input wire [31:0]  i_host_data,
    input wire [63:0]  i_counter
);
    wire        awready, wready, bvalid, arready, rvalid, host_write, unused_irq, unused_drain, start, reset;
    wire [31:0] rdata, host_data;
    wire [7:0]  host_register;
    control u_control (
        .i_clk(i_clk), .i_rst(i_rst), .i_awvalid(i_awvalid), .o_awready(awready), .i_awaddr(i_awaddr), .i_wvalid(i_wvalid),
        .o_wready(wready), .i_wdata(i_wdata), .o_bvalid(bvalid), .i_bready(i_bready), .i_arvalid(i_arvalid),
        .o_arready(arready), .i_araddr(i_araddr), .o_rvalid(rvalid), .i_rready(i_rready), .o_rdata(rdata), .o_irq(unused_irq),
        .i_running(i_state[0]), .i_axi_active(i_state[1]), .i_halt(i_state[2]), .i_error(i_state[3]),
        .i_error_code(i_fault[3:0]), .i_error_unit(i_fault[7:4]), .i_error_pc(i_fault[39:8]), .o_start(start), .o_reset(reset),
        .o_drain(unused_drain), .o_host_write(host_write), .o_host_register(host_register), .o_host_data(host_data), .i_host_data(i_host_data),
        .i_counter(i_counter));

    reg        past, was_reset, held_aw, held_w, held_ar, held_b, held_r, could_write, could_read, aw_due, w_due, r_due, is_id;
    reg [7:0]  looked_up;
    // R0..R31 begin at 0x080, all windows' at 0x400.
    wire       first_w = i_awaddr >= 12'h080 && i_awaddr < 12'h100, windows_w = i_awaddr >= 12'h400 && i_awaddr < 12'h800;
    wire [9:0] number_w = windows_w ? i_awaddr[11:2] - 10'h100 : i_awaddr[11:2] - 10'h020;
    wire       first_r = i_araddr >= 12'h080 && i_araddr < 12'h100, windows_r = i_araddr >= 12'h400 && i_araddr < 12'h800;
    wire [9:0] number_r = windows_r ? i_araddr[11:2] - 10'h100 : i_araddr[11:2] - 10'h020;
    reg [11:0] last_awaddr, last_araddr;
    reg [31:0] last_wdata, last_rdata;
    reg [2:0]  write_waits, read_waits;
    wire       aw = i_awvalid && awready, w = i_wvalid && wready, ar = i_arvalid && arready;
    initial past = 1'b0;
    always @(posedge i_clk) begin
        past      <= 1'b1;
        was_reset <= i_rst;
        {held_aw, held_w, held_ar} <= {i_awvalid && !awready, i_wvalid && !wready, i_arvalid && !arready} & {3{!i_rst}};
        {held_b, held_r} <= {bvalid && !i_bready, rvalid && !i_rready} & {2{!i_rst}};
        {last_awaddr, last_wdata, last_araddr, last_rdata} <= {i_awaddr, i_wdata, i_araddr, rdata};
        looked_up   <= host_register;
        could_write <= i_awvalid && i_wvalid && !awready && !bvalid && !i_rst;
        could_read  <= i_arvalid && !arready && !rvalid && !awready && !(i_awvalid && i_wvalid && !bvalid) && !i_rst;
        aw_due <= !i_rst && (aw || (aw_due && !(bvalid && i_bready)));
        w_due  <= !i_rst && (w || (w_due && !(bvalid && i_bready)));
        r_due  <= !i_rst && (ar || (r_due && !(rvalid && i_rready)));
        if (ar) is_id <= i_araddr[11:2] == 10'h00a;
        if (i_rst || !(i_awvalid && i_wvalid) || aw) write_waits <= 3'd0;
        else if (!bvalid || i_bready) write_waits <= write_waits + 3'd1;
        if (i_rst || !i_arvalid || ar) read_waits <= 3'd0;
        else if (!rvalid || i_rready) read_waits <= read_waits + 3'd1;
    end
    always @* begin
        assume (past || i_rst);
        if (past && held_aw) assume (i_awvalid && i_awaddr == last_awaddr);
        if (past && held_w) assume (i_wvalid && i_wdata == last_wdata);
        if (past && held_ar) assume (i_arvalid && i_araddr == last_araddr);
    end
    always @* if (past) begin
        if (was_reset) valid_is_low_after_reset: assert (!bvalid && !rvalid);
        if (held_b) bvalid_stays: assert (bvalid);
        if (held_r) rvalid_stays: assert (rvalid && rdata == last_rdata);
        aw_and_w_are_taken_together: assert (aw == w && aw_due == w_due);
        if (aw) no_write_while_one_is_open: assert (!aw_due);
        if (ar) no_read_while_one_is_open: assert (!r_due);
        b_answers_a_write: assert (bvalid == aw_due);
        r_answers_a_read: assert (rvalid == r_due);
        if (awready || wready) write_ready_is_registered: assert (could_write);
        if (could_write) write_ready_comes_next: assert (awready && wready);
        if (arready) read_ready_is_registered: assert (could_read);
        if (could_read) read_ready_comes_next: assert (arready);
        effect_is_the_handshake: assert (host_write == (aw && (first_w || windows_w)));
        if (host_write) effect_is_of_this_write: assert ({2'd0, host_register} == number_w && host_data == i_wdata);
        if (rvalid && is_id) rdata_is_of_this_read: assert (rdata == `AXL_MACHINE_ID);
        never_start_and_reset: assert (!(start && reset));
        write_is_taken_in_time: assert (write_waits <= 3'd2);
        read_is_taken_in_time: assert (read_waits <= 3'd4);
        if (ar && (first_r || windows_r)) read_looks_its_register_up: assert ({2'd0, looked_up} == number_r);
        // what the induction needs to know
        if (bvalid) write_waits_for_bready: assert (write_waits == 3'd0);
        if (!awready) write_has_waited: assert (write_waits <= 3'd1);
        if (rvalid) read_waits_for_rready: assert (read_waits == 3'd0);
        if (!arready) read_has_waited: assert (read_waits <= (awready ? 3'd2 : bvalid ? 3'd3 : 3'd1));
    end
endmodule
`default_nettype wire
