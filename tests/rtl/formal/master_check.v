// The AXI4 master at the pins of axlora_top, before any slave: READYs, order of responses, their delays, RLAST and errors are
// free; a response needs a request of its ID. The AXI4-Lite pins are free too, so programs start, halt, are reset and change
// registers at any time. Real: control, fetch, decode, arbiter, load, store, queues, errors. Free: everything else.
// Proved:
//   reset     VALID is low after a reset
//   stays     ARVALID, AWVALID, WVALID and their payloads stay until READY, whatever else happens
//   legal     INCR bursts of whole beats, aligned, 1 to BURST_BEATS beats (fetch: a line of 64 bytes), never across 4096 bytes
//   write     the data of one burst at a time: after its address, in every cycle until its last beat, AWLEN + 1 beats, WLAST on
//             the last alone, the next address after it; at most POSTED bursts without a response (responses_are_counted, below)
//   reads     at most OUTSTANDING bursts of load (ID 1) and FETCH_FLIGHTS of fetch (ID 0)
//   accepts   RREADY and BREADY are high
//   drains    after an error or a soft reset every burst is finished; a soft reset asks for nothing new and acts when the bus is
//             empty; the machine says busy until then and does not start; HALT finds the bus empty
`default_nettype none
`include "axlora_isa.vh"
module master_check #(
    parameter BEAT_BYTES  = 8,
    parameter BURST_BEATS = 16,
    parameter OUTSTANDING = 2
) (
    input wire                    i_clk,
    input wire                    i_rst,
    input wire [82:0]             i_host,
    input wire                    i_arready,
    input wire                    i_rvalid,
    input wire                    i_rid,
    input wire [8*BEAT_BYTES-1:0] i_rdata,
    input wire [1:0]              i_rresp,
    input wire                    i_rlast,
    input wire                    i_awready,
    input wire                    i_wready,
    input wire                    i_bvalid,
    input wire [1:0]              i_bresp
);
    localparam LOGB = $clog2(BEAT_BYTES);
    localparam [15:0] BEAT = BEAT_BYTES;
    wire [57:0]             unused_host;
    wire [1:0]              s_bresp, s_rresp;
    wire                    arvalid, arid, rready, awvalid, awid, wvalid, wlast, bready;
    wire [31:0]             araddr, awaddr;
    wire [7:0]              arlen, awlen;
    wire [2:0]              arsize, awsize;
    wire [1:0]              arburst, awburst;
    wire [8*BEAT_BYTES-1:0] wdata;
    wire [BEAT_BYTES-1:0]   wstrb;
    // o_busy; inner state, see _PEEKS in axi_proofs.py
    wire                    reset_wanted, reset_waited, busy, start, reset, running, axi_busy, halt, error;
    wire [31:0]             base, load_address, load_next, store_next, queued, fetch_x, accepted;
    wire                    halt_queued, load_ready, store_ready, idle, stop, pushed, taken, load_busy, store_busy, load_finish, load_left, sent, left, fetch_aim;
    wire                    began, ended, over, row_has_beats, more, next_is_right;
    wire [2:0]              fetch_state, store_state, flights;
    wire [3:0]              load_bursts;
    wire [4:0]              bursts, due;
    wire [6:0]              todo;
    axlora_top #(.VECTOR_LANES(1), .BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS), .OUTSTANDING(OUTSTANDING)) u_top (
        .i_clk(i_clk), .i_rst(i_rst), .o_busy(busy), .o_irq(unused_host[0]), .i_s_axi_awvalid(i_host[0]), .o_s_axi_awready(unused_host[1]),
        .i_s_axi_awaddr(i_host[12:1]), .i_s_axi_wvalid(i_host[13]), .o_s_axi_wready(unused_host[2]),
        .i_s_axi_wdata(i_host[45:14]), .o_s_axi_bvalid(unused_host[3]), .i_s_axi_bready(i_host[46]), .o_s_axi_bresp(s_bresp),
        .i_s_axi_arvalid(i_host[47]), .o_s_axi_arready(unused_host[4]), .i_s_axi_araddr(i_host[59:48]),
        .o_s_axi_rvalid(unused_host[5]), .i_s_axi_rready(i_host[60]), .o_s_axi_rdata(unused_host[37:6]), .o_s_axi_rresp(s_rresp),
        .o_m_axi_arvalid(arvalid), .i_m_axi_arready(i_arready), .o_m_axi_arid(arid), .o_m_axi_araddr(araddr),
        .o_m_axi_arlen(arlen), .o_m_axi_arsize(arsize), .o_m_axi_arburst(arburst), .i_m_axi_rvalid(i_rvalid),
        .o_m_axi_rready(rready), .i_m_axi_rid(i_rid), .i_m_axi_rdata(i_rdata), .i_m_axi_rresp(i_rresp), .i_m_axi_rlast(i_rlast),
        .o_m_axi_awvalid(awvalid), .i_m_axi_awready(i_awready), .o_m_axi_awid(awid), .o_m_axi_awaddr(awaddr),
        .o_m_axi_awlen(awlen), .o_m_axi_awsize(awsize), .o_m_axi_awburst(awburst), .o_m_axi_wvalid(wvalid),
        .i_m_axi_wready(i_wready), .o_m_axi_wdata(wdata), .o_m_axi_wstrb(wstrb), .o_m_axi_wlast(wlast), .i_m_axi_bvalid(i_bvalid),
        .o_m_axi_bready(bready), .i_m_axi_bresp(i_bresp),
        .f_top({reset_wanted, reset_waited, start, reset, running, axi_busy, halt, error, base}),
        .f_core({idle, stop, pushed, queued, taken, accepted, load_busy, store_busy, load_address, flights, halt_queued, fetch_aim, fetch_x, fetch_state,
                 load_ready, load_next, load_bursts, load_finish, load_left, store_ready, store_next, store_state, sent, left, todo, due, began, ended, over,
                 row_has_beats, more, next_is_right, bursts}));

    // The slave: what it has accepted and not yet answered.
    reg        past, was_reset, was_drain, held_ar, held_aw, held_w, w_open;
    reg [4:0]  b_due;
    reg [45:0] last_ar, last_aw;
    reg [9*BEAT_BYTES:0] last_w;
    reg [7:0]  w_left;
    reg [4:0]  reads_0, reads_1;
    wire [45:0]           ar = {arid, araddr, arlen, arsize, arburst}, aw = {awid, awaddr, awlen, awsize, awburst};
    wire [9*BEAT_BYTES:0] w  = {wdata, wstrb, wlast};
    wire       take_ar = arvalid && i_arready, take_aw = awvalid && i_awready, take_w = wvalid && i_wready;
    wire       end_0 = i_rvalid && i_rlast && !i_rid, end_1 = i_rvalid && i_rlast && i_rid;
    initial past = 1'b0;
    always @(posedge i_clk) begin
        past      <= 1'b1;
        was_reset <= i_rst;
        was_drain <= reset_wanted && reset_waited;
        {last_ar, last_aw, last_w} <= {ar, aw, w};
        {held_ar, held_aw, held_w} <= {arvalid && !i_arready, awvalid && !i_awready, wvalid && !i_wready} & {3{!i_rst}};
        reads_0 <= i_rst ? 5'd0 : reads_0 + {4'd0, take_ar && !arid} - {4'd0, end_0};
        reads_1 <= i_rst ? 5'd0 : reads_1 + {4'd0, take_ar && arid} - {4'd0, end_1};
        w_open  <= !i_rst && (take_aw || (w_open && !(take_w && w_left == 8'd0)));
        b_due   <= i_rst ? 5'd0 : b_due + {4'd0, take_w && w_left == 8'd0} - {4'd0, i_bvalid};
        if (take_aw) w_left <= awlen;
        else if (take_w) w_left <= w_left - 8'd1;
    end
    always @* begin
        assume (past || i_rst);
        if (i_rvalid) assume (i_rid ? reads_1 != 5'd0 : reads_0 != 5'd0);
        if (i_bvalid) assume (b_due != 5'd0);
        if (taken) assume (accepted[LOGB-1:0] == {LOGB{1'b0}});  // a queue gives what was pushed: see queued_load_is_aligned
    end

    function crosses(input [11:0] address, input [7:0] length);
        crosses = {4'd0, address} + ({8'd0, length} + 16'd1) * BEAT > 16'd4096;
    endfunction
    wire [4:0] fetches = reads_0 + {4'd0, arvalid && !arid}, loads = reads_1 + {4'd0, arvalid && arid};
    wire       in_flight = arvalid || reads_0 != 5'd0 || reads_1 != 5'd0 || awvalid || w_open || b_due != 5'd0;
    localparam [2:0] ISSUE = 3'd3, RESOLVE = 3'd5;
    localparam [2:0] START = 3'd1, DATA = 3'd2, FINISH = 3'd4, IDLE = 3'd0;
    always @* if (past) begin
        if (was_reset) valid_is_low_after_reset: assert (!arvalid && !awvalid && !wvalid);
        if (held_ar) ar_stays: assert (arvalid && ar == last_ar);
        if (held_aw) aw_stays: assert (awvalid && aw == last_aw);
        if (held_w) w_stays: assert (wvalid && w == last_w);
        always_accepts: assert (rready && bready && s_bresp == 2'd0 && s_rresp == 2'd0);
        if (arvalid) begin
            ar_is_of_beats: assert (arsize == LOGB && arburst == 2'b01 && araddr[LOGB-1:0] == {LOGB{1'b0}});
            ar_stays_in_4096: assert (!crosses(araddr[11:0], arlen));
            if (arid) ar_length: assert (arlen < BURST_BEATS);
            else ar_is_a_line: assert (arlen == 64 / BEAT_BYTES - 1 && araddr[5:0] == 6'd0);
        end
        if (awvalid) begin
            aw_is_of_beats: assert (!awid && awsize == LOGB && awburst == 2'b01 && awaddr[LOGB-1:0] == {LOGB{1'b0}});
            aw_stays_in_4096: assert (!crosses(awaddr[11:0], awlen));
            aw_length: assert (awlen < BURST_BEATS);
            one_write_at_a_time: assert (!w_open);
        end
        w_follows_its_address: assert (wvalid == w_open);
        if (wvalid) wlast_is_the_last_beat: assert (wlast == (w_left == 8'd0));
        load_outstanding: assert (reads_1 <= OUTSTANDING && loads <= OUTSTANDING);
        fetch_outstanding: assert (reads_0 <= `AXL_FETCH_FLIGHTS && fetches <= `AXL_FETCH_FLIGHTS);
        if (in_flight) busy_while_in_flight: assert (axi_busy && busy);
        if (start) start_finds_the_bus_empty: assert (!in_flight && !running);
        if (was_drain) reset_asks_for_nothing_new: assert ((!arvalid || held_ar) && (!awvalid || held_aw));
        if (reset) reset_finds_the_bus_empty: assert (!in_flight);
        if (halt && !error) halt_finds_the_bus_empty: assert (!in_flight);
        if (pushed) queued_load_is_aligned: assert (queued[LOGB-1:0] == {LOGB{1'b0}});
    end
    // What the induction needs to know of the inner state.
    always @* if (past) begin
        if (reset_wanted) drain_stops: assert (stop);
        if (reset_wanted && reset_waited) drained_units_begin_nothing: assert (!load_ready && !store_ready);
        if (fetch_state == ISSUE) halt_is_not_queued: assert (!halt_queued);
        running_is_the_state: assert (running == (fetch_state != 3'd0) && fetch_state <= RESOLVE);
        if (!running && stop) stopped_units_begin_nothing: assert (idle || (!load_ready && !store_ready));
        if (!running && !stop) halted_units_are_idle: assert (idle);
        base_is_of_pages: assert (base[11:0] == 12'd0);
        arbiter_counts: assert (bursts == fetches + loads);
        if (running || !stop) load_counts: assert (load_bursts == loads);
        flights_are_counted: assert ({2'd0, flights} == fetches);
        if (fetch_state == ISSUE && fetch_aim) load_at_issue_is_aligned: assert (fetch_x[LOGB-1:0] == {LOGB{1'b0}});
        if (load_busy) load_is_aligned: assert (load_next[LOGB-1:0] == {LOGB{1'b0}});
        if (!load_busy) idle_load_has_no_burst: assert ((stop && !running) || load_bursts == 4'd0);
        if (load_finish && running) finished_load_is_done: assert (load_bursts == 4'd0 && !load_left);
        if (store_state != 3'd0) store_is_busy: assert (store_busy && store_next[LOGB-1:0] == {LOGB{1'b0}});
        data_is_open: assert ((store_state == DATA) == w_open);
        responses_are_counted: assert (due == b_due + {4'd0, w_open} && b_due <= `AXL_POSTED && due <= `AXL_POSTED && !(sent && due == `AXL_POSTED));
        if (store_state == IDLE || store_state == FINISH) finished_store_is_answered: assert (due == 5'd0);
        if (began) burst_began: assert (store_state == DATA && (ended || more));
        if (over) last_burst_ended: assert (ended || !began);
        if (sent || (store_state == START && store_ready)) next_burst_is_there: assert (next_is_right && left && !began);
        if (store_state == START || store_state == DATA) rows_have_beats: assert (row_has_beats);
        if (store_state == DATA && !over && !began) next_burst_has_beats: assert (left);
        if (w_open) todo_is_left: assert (w_left < BURST_BEATS && todo == w_left + 8'd1);
        sent_is_held: assert (sent == held_aw);
        if (sent) sent_at_start: assert (store_state == START);
        if (store_state == START) start_has_beats: assert (left && !began);
    end
endmodule
`default_nettype wire
