"""`axlora compile`."""

from __future__ import annotations

import argparse
from dataclasses import fields

from .given import adapter_map, bad, pairs, shapes
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model and every option of `axlora.compile`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="ONNX file, or Hugging Face directory of safetensors")
    add("-o", "--output", required=True, metavar="OUT.axl")
    add("--target", required=True, metavar="T", help="preset or TOML file")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="PEFT directory, .onnx_adapter, or a weighted sum DIR@0.7,DIR@0.3; may be repeated",
    )
    add("--adapter-map", metavar="FILE", help="JSON: adapter module to ONNX node")
    add("--base", metavar="HF_DIR", help="the base of the adapters: matches their modules by equal weights")
    add("--partial-adapters", action="store_true", help="take the part of an adapter that fits the model, and name the rest")
    add("--calibration", metavar="DATA.npz", help="input samples [samples, *input shape], or one sample of the input's shape")
    add("--shape", action="append", default=[], metavar="DIM=N", help="value of a symbolic dimension; may be repeated")
    add("--fix-input", action="append", default=[], metavar="NAME=VALUE", help="make an input a constant; may be repeated")
    add(
        "--activation",
        choices=["auto", "token8", "static8", "token16", "static16"],
        help="input codes of linears: a scale a token (auto: with the target's bits), or static (default: the file's scales "
        "where it has them, else token8; with --operators all and --generate they are dropped unless static is asked for)",
    )
    add(
        "--weight-bits",
        type=lambda text: int(text) if text.isdecimal() else text,
        default=8,
        metavar="{2,3,4,8,auto,auto:B}",
        help="for weights that the file holds as floats; auto: for each linear, so that results on --calibration data change "
        "least, and all weights are the bytes of 5 bits, or B",
    )
    add(
        "--quantizer",
        default="rtn",
        choices=["rtn", "gptq"],
        help="rounding of those: to the nearest, or for --calibration data",
    )
    add("--max-loras", type=int, metavar="N", help="different adapters in one batch, 0 to 8")
    add("--max-lora-rank", type=int, metavar="R", help="largest rank the program takes")
    add(
        "--lora-linears",
        default="used",
        choices=["used", "all"],
        help="linears that adapters may change: those that the given ones do (all, if none are given), or all",
    )
    add(
        "--operators",
        default="auto",
        choices=["auto", "all", "linears"],
        help="what the accelerator runs: all between the first rows and outputs, the linears alone, or all where it can (auto)",
    )
    add(
        "--mode",
        default="fused",
        choices=["fused", "exact"],
        help="fused: base and LoRA are rounded once (default); exact: every Q/DQ pair of the file counts",
    )
    add("--merge", action="store_true", help="put the LoRA, the model's own or one adapter, into the weights")
    add("--dump-passes", metavar="DIR", help="write the text of every phase")
    add("--generate", action="store_true", help="a language model: prefill and decode programs around a cache")
    add("--max-context", type=int, metavar="N", help="with --generate: most tokens (default 256)")
    add("--max-batch", type=int, metavar="B", help="with --generate: most sequences that decode together (1)")
    add("--chunk", type=int, metavar="C", help="with --generate: most tokens of a prompt at once (32)")


def run(options: argparse.Namespace) -> int:
    """Compile, prove and save; prints the placement."""
    import axlora
    from axlora.adapters import module_rows
    from axlora.arrays import read_arrays
    from axlora.report.tables import module_table, placement_table

    fixed = {}
    for name, value in pairs(options.fix_input, "--fix-input").items():
        try:
            fixed[name] = float({"true": "1", "false": "0"}.get(value.lower(), value))
        except ValueError:
            raise bad(f"--fix-input {name}={value}: not a number", "--fix-input", "INPUT=VALUE, true or false") from None
    with progress() as shown:

        def tell(text: str) -> None:  # a phase has words, a linear has a name
            if " " in text:
                shown.phase(text)
            else:
                shown.detail(text)

        shown.phase("reading the model")
        given = {
            "adapters": pairs(options.adapter, "--adapter"),
            "adapter_map": adapter_map(options.adapter_map),
            "shapes": shapes(options.shape),
            "calibration": read_arrays(options.calibration) if options.calibration else None,
            "fixed_inputs": fixed,
            "progress": tell,
        }
        same = {f.name: vars(options)[f.name] for f in fields(axlora.CompileOptions) if f.name in vars(options)}
        program = axlora.compile(options.model, options.target, **(same | given))
        shown.phase("writing the package")
        program.save(options.output)
    show(placement_table(program.placement))
    if modules := [(a.name, *row) for a in program.adapters for row in module_rows(a)]:
        show(module_table(modules))
    names = ", ".join(f"{a.name} (rank {a.rank})" for a in program.adapters) or "none"
    show(f"{options.output}: {program.summary}, adapters: {names}")
    return 0
