"""What a simulator that writes waves has beside the machine: the instruction that each unit is at, by name, and the dump.

Also lists of signals for the viewers, in which the units stand by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from axlora.isa.opcodes import INSTRUCTION_BYTES, Opcode, Unit

DUMP = "dump"
"""File in the simulator's folder."""
_UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)
_CORE = "axlora_tb.u_top.u_core"
_OWN = "axlora_tb.u_probe"
_LETTERS = max(len(opcode.name) for opcode in Opcode)
_RANGE = r"\[\d+:\d+\]$"
_SIGNALS: dict[str, tuple[str, ...]] = {
    "load": ("load_request", "load_beat", "write[6:0]"),
    "matrix": ("pop", "wait_product", "wait_written"),
    "vector": (),
    "store": ("w_beat",),
}
"""Of each unit, in the core."""
_BUS = ("o_arvalid", "o_araddr[31:0]", "o_arid", "i_rvalid", "i_rid", "o_awvalid", "o_awaddr[31:0]", "o_wvalid", "i_bvalid")


def probe() -> str:
    """Verilog, bound into the test bench: `UNIT_opcode` (text), `UNIT_instruction` (as axlora disasm counts) and the dump.

    The dump begins in cycle +waves_from of the run. An instruction is shown from the cycle after its unit accepted it until the
    one in which the unit is idle again, nothing (0) between.
    """
    text = "\n".join(f'            6\'d{opcode.value}: name = "{opcode.name}";' for opcode in Opcode)
    regs, steps = [], []
    for number, unit in enumerate(_UNITS):
        name = unit.name.lower()
        regs.append(f"    reg [{8 * _LETTERS - 1}:0] {name}_opcode;\n    reg [31:0] {name}_instruction;")
        entry = f"i_head[{number}*`AXL_ENTRY_BITS +: `AXL_ENTRY_BITS]"
        steps.append(
            f"        if (i_accept[{number}] && !i_single[{number}]) begin\n"
            f"            {name}_opcode <= name(op({entry}));\n"
            f"            {name}_instruction <= i_pcs[{32 * number} +: 32] / {INSTRUCTION_BYTES};\n"
            f"        end else if (i_done[{number}] || !i_run) begin\n"
            f"            {name}_opcode <= 0;\n            {name}_instruction <= 0;\n        end"
        )
    return f"""`default_nettype none
`include "axlora_isa.vh"
/* verilator lint_off WIDTH */
/* verilator lint_off UNUSED */
module axlora_probe (
    input wire i_clk, input wire i_run, input wire [3:0] i_accept, input wire [3:0] i_single, input wire [3:0] i_done,
    input wire [127:0] i_pcs, input wire [4*`AXL_ENTRY_BITS-1:0] i_head
);
{chr(10).join(regs)}
    reg [63:0] cycle, from;
    reg on;
    function [5:0] op(input [`AXL_ENTRY_BITS-1:0] entry);
        op = entry[`AXL_ENTRY_OP];
    endfunction
    function [{8 * _LETTERS - 1}:0] name(input [5:0] opcode);
        case (opcode)
{text}
            default: name = 0;
        endcase
    endfunction
    initial begin
        cycle = 0;
        on = 0;
        if (!$value$plusargs("waves_from=%d", from)) from = 0;
    end
    always @(posedge i_clk) begin
        if (i_run) cycle <= cycle + 1;
        if (i_run && !on && cycle >= from) begin
            $dumpfile("{DUMP}");
            $dumpvars(0, axlora_tb);
            on <= 1;
        end
{chr(10).join(steps)}
    end
endmodule
bind axlora_tb axlora_probe u_probe (
    .i_clk(i_clk), .i_run(u_top.u_core.o_running), .i_accept(u_top.u_core.accept), .i_single(u_top.u_core.single),
    .i_done(u_top.u_core.done), .i_pcs(u_top.u_core.pcs[159:32]), .i_head(u_top.u_core.head));
`default_nettype wire
"""


def _groups() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Name of a group, and (signal, how it is shown: ascii, decimal, hex, bit) of each of its signals."""
    yield "run", [(f"{_OWN}.cycle[63:0]", "decimal"), (f"{_CORE}.pcs[159:0]", "hex")]
    for number, unit in enumerate(_UNITS):
        name = unit.name.lower()
        own = [(f"{_OWN}.{name}_opcode[{8 * _LETTERS - 1}:0]", "ascii"), (f"{_OWN}.{name}_instruction[31:0]", "decimal")]
        own.append((f"{_CORE}.g_port[{number}].u_port.o_busy", "bit"))
        yield name, own + [(f"{_CORE}.{signal}", "hex" if "[" in signal else "bit") for signal in _SIGNALS[name]]
    yield "bus", [(f"{_CORE}.{signal}", "hex" if "[" in signal else "bit") for signal in _BUS]


def gtkwave(waves: str) -> str:
    """A save file of GTKWave for the dump `waves`."""
    flags = {"ascii": "@820", "decimal": "@24", "hex": "@22", "bit": "@28"}
    lines = [f'[dumpfile] "{waves}"']
    for name, signals in _groups():
        lines += ["@200", f"-{name}"]
        for signal, shown in signals:
            lines += [flags[shown], signal]
    return "\n".join(lines) + "\n"


def surfer() -> str:
    """A command file of Surfer."""
    lines = []
    for name, signals in _groups():
        lines += [f"divider_add {name}", *(f"variable_add {re.sub(_RANGE, '', signal)}" for signal, _ in signals)]
    return "\n".join([*lines, "zoom_fit"]) + "\n"
