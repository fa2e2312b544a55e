"""`axlora hls`: a folder with the C++ of one target, a self-test, and the Tcl script that AMD Vitis HLS runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from axlora.isa.cpp_header import target_header
from axlora.isa.image import Image
from axlora.isa.target import Target

from .hls_run import job_bytes, result_bytes, sources

PART = "xczu7ev-ffvc1156-2-e"
"""Of the ZCU104."""

_TCL = """\
# Vitis HLS: C simulation of the self-test and synthesis of target {name}.
open_project -reset axlora_hls
set_top axlora
foreach file {{{files}}} {{
  add_files $file -cflags "-std=c++14 -I."
}}
add_files -tb testbench.cpp -cflags "-std=c++14 -I."
open_solution -reset -flow_target vivado solution
set_part {{{part}}}
create_clock -period {period:.3f} -name clock
csim_design -argv "[file normalize selftest.job] [file normalize selftest.result] [file normalize selftest.expected]"
csynth_design
exit
"""

_README = """\
# HLS project of target {name}

The machine of docs/isa.md as C++ for AMD Vitis HLS; top function `axlora` (machine.cpp), parameters in axlora_target.h.
`selftest.job` is a program that uses every unit, `selftest.expected` what AxLoRA's simulator made of it.

C simulation without Vitis, with g++ and the Apache-licensed ap_int headers of the Python package hls4ml:

    HEADERS=$(python -c 'from axlora.fpga.hls_run import headers; print(headers())')
    g++ -std=c++14 -O2 -Wno-unknown-pragmas -I. -isystem "$HEADERS" *.cpp -o testbench
    ./testbench selftest.job selftest.result selftest.expected

C simulation and synthesis in Vitis HLS, part {part}, {mhz} MHz:

    vitis-run --mode hls --tcl run_hls.tcl      (2023.2 and newer)
    vitis_hls -f run_hls.tcl                    (before)

AxLoRA's tests run the first on many programs and compare every byte and counter with the simulator. The second was not run by
them: Vitis is not free software, so neither the area nor the clock of this C++ is known.
"""


def emit(target: Target, out: Path, image: Image, memory: bytes, counters: dict[str, int]) -> list[Path]:
    """Write the project of a target; its files.

    Args:
        target: the machine.
        out: folder; made if it is not there, files of the same names replaced.
        image: the self-test.
        memory, counters: what the simulator made of it; the counters of `COUNTED`.
    """
    files = " ".join(path.name for path in sources() if path.suffix == ".cpp" and path.name != "testbench.cpp")
    texts = {
        "axlora_target.h": target_header(target),
        "run_hls.tcl": _TCL.format(name=target.name, files=files, part=PART, period=1000 / target.clock_mhz),
        "README.md": _README.format(name=target.name, part=PART, mhz=target.clock_mhz),
    }
    out.mkdir(parents=True, exist_ok=True)
    for path in sources():
        shutil.copyfile(path, out / path.name)
    for name, text in texts.items():
        (out / name).write_text(text)
    (out / "selftest.job").write_bytes(job_bytes(image))
    (out / "selftest.expected").write_bytes(result_bytes(memory, counters))
    names = [*(path.name for path in sources()), *texts, "selftest.job", "selftest.expected"]
    return [out / name for name in names]
