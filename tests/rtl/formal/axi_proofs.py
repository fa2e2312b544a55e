"""Proofs of the handshake rules of AXI: the slave (control.v alone), and the master at the pins of the whole machine.

Of the machine, what can reach the bus is real: control, fetch, decode, read_arbiter, load, store, burst, unit_port, errors.
Everything else is a box whose outputs take any value in any cycle, so what is proved holds for every program, even one that
no memory could hold. Two more freedoms keep multiplication and memory out of the solver: a burst's count of bytes is any
number (zero exactly when the transfer is empty), and what OBUF reads is any data.
"""

from __future__ import annotations

from proofs import Edit, Fault, Proof

_PEEKS = (
    Edit(
        "axlora_top.v",
        "    input  wire [1:0]              i_m_axi_bresp\n);",
        "    input  wire [1:0]              i_m_axi_bresp,\n    output wire [39:0] f_top,\n    output wire [241:0] f_core\n);\n"
        "    wire [1:0] f_control;\n"
        "    assign f_top = {f_control, start, reset, running, axi_busy, halt, error, base};",
    ),
    Edit("axlora_top.v", ".i_counter(counter_value));", ".i_counter(counter_value), .f_control(f_control));"),
    Edit(
        "control.v",
        "    input  wire [63:0] i_counter\n);",
        "    input  wire [63:0] i_counter,\n    output wire [1:0] f_control\n);\n"
        "    assign f_control = {reset_wanted, drained};",
    ),
    Edit("axlora_top.v", ".i_bbad(i_m_axi_bresp[1]));", ".i_bbad(i_m_axi_bresp[1]), .f_core(f_core));"),
    Edit(
        "axlora_core.v",
        "    input  wire                    i_bbad\n);",
        "    input  wire                    i_bbad,\n    output wire [241:0] f_core\n);\n"
        "    wire [39:0] f_fetch;\n    wire [38:0] f_load;\n    wire [55:0] f_store;\n    wire [4:0] f_bursts;\n"
        "    assign f_core = {&quiet, stop, push[0], entry[`AXL_ENTRY_X], accept[0], head[`AXL_ENTRY_X],\n"
        "                     busy[0], busy[3], load_address,\n"
        "                     f_fetch, f_load, f_store, f_bursts};",
    ),
    Edit("axlora_core.v", ".o_count_halt(count_halt));", ".o_count_halt(count_halt), .f_fetch(f_fetch));"),
    Edit("axlora_core.v", ".o_active(read_active));", ".o_active(read_active), .f_bursts(f_bursts));"),
    Edit("axlora_core.v", ".o_error(load_error));", ".o_error(load_error), .f_load(f_load));"),
    Edit("axlora_core.v", ".o_error(store_error));", ".o_error(store_error), .f_store(f_store));"),
    Edit(
        "fetch.v",
        "    output wire                       o_count_halt\n);",
        "    output wire                       o_count_halt,\n    output wire [39:0] f_fetch\n);\n"
        "    assign f_fetch = {flights, halt && chosen != 4'd0, legal && chosen[0], x, state};",
    ),
    Edit(
        "load.v",
        "    output wire [3:0]                 o_error\n);",
        "    output wire [3:0]                 o_error,\n    output wire [38:0] f_load\n);\n"
        "    wire [31:0] at_burst;\n    assign f_load = {ready, at_burst, bursts, finish, left};",
    ),
    Edit("load.v", ".o_bad(bad_burst));", ".o_bad(bad_burst), .f_address(at_burst), .f_next());"),
    Edit(
        "store.v",
        "    output wire [3:0]                 o_error\n);",
        "    output wire [3:0]                 o_error,\n    output wire [55:0] f_store\n);\n"
        "    wire [31:0] at_burst;\n    wire [1:0] f_next;\n    wire f_row = row_beats != 17'd0;\n"
        "    assign f_store = {ready, at_burst, state, sent, left, todo, due, began, ended, over, f_row, f_next};",
    ),
    Edit("store.v", ".o_bad(bad_burst));", ".o_bad(bad_burst), .f_address(at_burst), .f_next(f_next));"),
    Edit(
        "burst.v",
        "    output reg         o_bad\n);",
        "    output reg         o_bad,\n    output wire [31:0] f_address,\n    output wire [1:0] f_next\n);\n"
        "    assign f_address = address;\n"
        "    assign f_next = {left > {26'd0, o_beats},\n"
        "                     o_beats == (whole ? room : left[6:0]) && o_last == (left <= {26'd0, room})};",
    ),
    Edit(
        "read_arbiter.v",
        "    output wire        o_active\n);",
        "    output wire        o_active,\n    output wire [4:0] f_bursts\n);\n    assign f_bursts = bursts;",
    ),
)
"""Outputs that show inner state; they add no behaviour."""

_FREEDOMS = (
    Edit(
        "burst.v",
        "    wire [32:0] total = {16'd0, i_row} * {17'd0, i_rows};",
        "    (* anyseq *) reg [32:0] total;\n    always @* assume ((total == 33'd0) == o_empty);",
    ),
    Edit(
        "ram_bytes.v",
        "        if (i_read) o_read_data <= memory[i_read_address];\n    end",
        "        if (i_read) o_read_data <= any_data;\n    end\n    (* anyseq *) reg [8*BYTES-1:0] any_data;",
    ),
)

_REAL = (
    "axlora_top.v",
    "axlora_core.v",
    "control.v",
    "fetch.v",
    "decode.v",
    "read_arbiter.v",
    "load.v",
    "store.v",
    "burst.v",
    "unit_port.v",
    "errors.v",
    "ram_bytes.v",
    "result_ram.v",
)
_FREE = (
    "matrix.v",
    "vector_unit.v",
    "ram_lut.v",
    "beat_ram.v",
    "token_buffer.v",
    "icache.v",
    "loops.v",
    "semaphores.v",
    "counter_events.v",
)


def _master(name: str, **parameters: int) -> Proof:
    return Proof(name, "master_check", _REAL, parameters, 2, free=_FREE, peeks=_PEEKS + _FREEDOMS)


LITE = Proof("axi-lite", "lite_check", ("control.v",), {}, 2)
MASTER = _master("axi-master", BEAT_BYTES=8, BURST_BEATS=16, OUTSTANDING=2)
MASTER_WIDE = _master("axi-master-wide", BEAT_BYTES=16, BURST_BEATS=16, OUTSTANDING=4)
PROOFS = (LITE, MASTER, MASTER_WIDE)


def _lite(name: str, old: str, new: str, assertion: str) -> Fault:
    return Fault(name, LITE, (Edit("control.v", old, new),), 8, assertion)


def _bus(name: str, file: str, old: str, new: str, assertion: str, depth: int) -> Fault:
    return Fault(name, MASTER, (Edit(file, old, new),), depth, assertion)


_LITE_FAULTS = (
    _lite(
        "BVALID for a cycle", "o_bvalid  <= write || (o_bvalid && !i_bready);", "o_bvalid  <= write || 1'b0;", "bvalid_stays"
    ),
    _lite("RDATA follows ARVALID", "if (read) o_rdata <= value;", "if (i_arvalid) o_rdata <= value;", "rvalid_stays"),
    _lite(
        "an address without its data",
        "writable = i_awvalid && i_wvalid &&",
        "writable = i_awvalid &&",
        "aw_and_w_are_taken_together",
    ),
    _lite(
        "a second write before B",
        "i_wvalid && !o_awready && !o_bvalid;",
        "i_wvalid && !o_awready;",
        "no_write_while_one_is_open",
    ),
    _lite(
        "WREADY follows WVALID",
        "assign o_wready        = o_awready;",
        "assign o_wready        = writable;",
        "write_ready_is_registered",
    ),
    _lite("BVALID at reset", "o_start, o_reset} <= 7'd0;", "o_start, o_reset} <= 7'd16;", "valid_is_low_after_reset"),
    _lite(
        "an address of a write holds reads up",
        "!o_arready && !o_rvalid && !writable && !o_awready;",
        "!o_arready && !o_rvalid && !i_awvalid && !o_awready;",
        "read_is_taken_in_time",
    ),
    _lite(
        "a register is written before the handshake",
        "o_host_write    = write &&",
        "o_host_write    = writable &&",
        "effect_is_the_handshake",
    ),
    _lite("B before the write", "o_bvalid  <= write ||", "o_bvalid  <= writable ||", "b_answers_a_write"),
    _lite("an answer is lost", "o_rvalid  <= read ||", "o_rvalid  <= (read && i_rready) ||", "r_answers_a_read"),
    _lite(
        "a second read before R",
        "!o_arready && !o_rvalid && !writable && !o_awready;",
        "!o_arready && !writable && !o_awready;",
        "no_read_while_one_is_open",
    ),
    _lite(
        "a register is looked up under a write",
        "!o_arready && !o_rvalid && !writable && !o_awready;",
        "!o_arready && !o_rvalid && !writable;",
        "read_looks_its_register_up",
    ),
    _lite("RDATA of no register", "value = `AXL_MACHINE_ID;", "value = o_base;", "rdata_is_of_this_read"),
    _lite(
        "a read holds writes up",
        "writable = i_awvalid && i_wvalid &&",
        "writable = i_awvalid && i_wvalid && !i_arvalid &&",
        "write_is_taken_in_time",
    ),
    _lite(
        "a busy machine takes no writes", "o_awready <= writable;", "o_awready <= writable && !busy;", "write_ready_comes_next"
    ),
    _lite("ARREADY without ARVALID", "o_arready <= readable;", "o_arready <= readable || enable;", "read_ready_is_registered"),
    _lite(
        "a busy machine takes no reads", "o_arready <= readable;", "o_arready <= readable && !busy;", "read_ready_comes_next"
    ),
    _lite(
        "a write goes where a read waits",
        "write ? number_w :",
        "write && !i_arvalid ? number_w :",
        "effect_is_of_this_write",
    ),
    _lite("a start while a reset waits", " || o_start || reset_wanted;", " || o_start;", "never_start_and_reset"),
)

_MASTER_FAULTS = (
    _bus("ARVALID for a cycle", "read_arbiter.v", "if (free) o_arvalid <= grant;", "o_arvalid <= grant;", "ar_stays", 12),
    _bus("AR is overwritten", "read_arbiter.v", "free  = !o_arvalid || i_arready;", "free  = 1'b1;", "ar_stays", 12),
    _bus(
        "ARVALID at reset", "read_arbiter.v", "            o_arvalid <= 1'b0;", "            ;", "valid_is_low_after_reset", 8
    ),
    _bus(
        "reads at one address", "axlora_top.v", "{SIZE, 2'b01, SIZE, 2'b01}", "{SIZE, 2'b00, SIZE, 2'b01}", "ar_is_of_beats", 12
    ),
    _bus(
        "writes of narrow beats",
        "axlora_top.v",
        "{SIZE, 2'b01, SIZE, 2'b01}",
        "{SIZE, 2'b01, 3'd2, 2'b01}",
        "aw_is_of_beats",
        16,
    ),
    _bus("a read burst crosses a page", "burst.v", "room  = MOST - {{", "room  = MOST - 7'd0 & {{", "ar_stays_in_4096", 18),
    _bus("a write burst crosses a page", "burst.v", "room  = MOST - {{", "room  = MOST - 7'd0 & {{", "aw_stays_in_4096", 18),
    _bus(
        "ARLEN is not one less",
        "load.v",
        "o_request_length = {1'b0, beats} - 8'd1;",
        "o_request_length = {1'b0, beats};",
        "ar_length",
        16,
    ),
    _bus(
        "AWLEN is not one less",
        "store.v",
        "o_awlen     = {1'b0, beats} - 8'd1;",
        "o_awlen     = {1'b0, beats};",
        "aw_length",
        16,
    ),
    _bus(
        "a line of another length",
        "read_arbiter.v",
        "o_fetch_grant ? LINE :",
        "o_fetch_grant ? i_load_length :",
        "ar_is_a_line",
        12,
    ),
    _bus(
        "a base within a page", "control.v", "o_base <= {i_wdata[31:12], 12'd0};", "o_base <= i_wdata;", "base_is_of_pages", 12
    ),
    _bus("a base that changes under a burst", "control.v", "if (!i_running && !i_axi_active) o_base", "o_base", "aw_stays", 18),
    _bus("a load off its beats is legal", "decode.v", "whole ? aligned :", "whole ? 1'b1 :", "queued_load_is_aligned", 14),
    _bus("a burst of load too many", "load.v", "ready && bursts < MOST;", "ready && bursts <= MOST;", "load_outstanding", 20),
    _bus("fetch asks for a fifth line", "fetch.v", "ask && !crowded &&", "ask &&", "fetch_outstanding", 24),
    _bus("AWVALID falls at an error", "store.v", "START && (sent || (", "START && ((", "aw_stays", 18),
    _bus(
        "an address under the data before",
        "store.v",
        "o_awvalid   = go;",
        "o_awvalid   = go || (state == DATA && !i_wready);",
        "one_write_at_a_time",
        18,
    ),
    _bus(
        "over at the first response",
        "store.v",
        "RESPONSE: if (i_bvalid && due == 5'd1)",
        "RESPONSE: if (i_bvalid)",
        "finished_store_is_answered",
        24,
    ),
    _bus(
        "WLAST a beat early",
        "store.v",
        "o_wlast     = todo == 7'd1;",
        "o_wlast     = todo == 7'd2;",
        "wlast_is_the_last_beat",
        16,
    ),
    _bus(
        "an error cuts a burst",
        "store.v",
        "o_wvalid    = state == DATA;",
        "o_wvalid    = state == DATA && i_run;",
        "w_follows_its_address",
        18,
    ),
    _bus(
        "data before its address",
        "store.v",
        "o_wvalid    = state == DATA;",
        "o_wvalid    = state == DATA || sent;",
        "w_follows_its_address",
        16,
    ),
    _bus("WDATA runs on", "store.v", "o_read      = begun || move;", "o_read      = begun || state == DATA;", "w_stays", 20),
    _bus(
        "a reset under a burst",
        "control.v",
        "reset_wanted && drained && !i_axi_active;",
        "reset_wanted && drained;",
        "reset_finds_the_bus_empty",
        18,
    ),
    _bus(
        "a reset a cycle early",
        "control.v",
        "reset_wanted && drained && !i_axi_active;",
        "reset_wanted && !i_axi_active;",
        "reset_finds_the_bus_empty",
        18,
    ),
    _bus(
        "units go on under a reset",
        "axlora_core.v",
        "run = !stop;",
        "run = !o_error;",
        "reset_asks_for_nothing_new",
        18,
    ),
    _bus("fetch goes on under a reset", "axlora_core.v", ".i_stop(stop)", ".i_stop(o_error)", "reset_asks_for_nothing_new", 20),
    _bus(
        "reads in flight are not busy",
        "axlora_core.v",
        "o_axi_busy = read_active || store_active;",
        "o_axi_busy = store_active;",
        "busy_while_in_flight",
        12,
    ),
    _bus(
        "a start under a burst",
        "control.v",
        "busy  = i_running || i_axi_active ||",
        "busy  = i_running ||",
        "start_finds_the_bus_empty",
        20,
    ),
    _bus("HALT does not wait", "fetch.v", "issue && halt && at_rest &&", "issue && halt &&", "halt_finds_the_bus_empty", 18),
    _bus(
        "HALT under a line in flight",
        "fetch.v",
        "i_all_quiet && flights == 3'd0;",
        "i_all_quiet;",
        "halt_finds_the_bus_empty",
        18,
    ),
    _bus("BREADY is low", "axlora_top.v", "o_m_axi_bready} = 3'b011;", "o_m_axi_bready} = 3'b010;", "always_accepts", 8),
)
FAULTS = _LITE_FAULTS + _MASTER_FAULTS
