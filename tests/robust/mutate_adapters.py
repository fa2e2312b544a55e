"""Mutations of PEFT directories: adapter/adapter_config.json and adapter/adapter_model.safetensors in the case's folder."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutate import REFUSED, SAME, Mutation, Random, edit_json, of_bytes
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]


def _pick(items: Any, rng: Random) -> Any:
    found = list(items)
    return found[int(rng.integers(len(found)))]


def _config(change: Callable[[dict[str, Any], Random], str]) -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        path = folder / "adapter" / "adapter_config.json"
        config = json.loads(path.read_text())
        text = change(config, rng)
        path.write_text(json.dumps(config))
        return text

    return apply


_FIELDS: dict[str, tuple[object, ...]] = {
    "r": (0, -1, 10**9, 2**70, 1.5, "3", None, True, [], float("nan"), float("inf"), 4),
    "lora_alpha": (float("nan"), float("inf"), 1e308, 1e30, 1e-308, 0, -8, 2**80, 10**400, "8", None, {}, False),
    "rank_pattern": ({"(": 3}, {".*": "x"}, {".*": None}, {".*": float("nan")}, {".*": 10**400}, [1], "x", {"query": -1},
                     {"(a+)+$": 3}, {"((.*)*)*x": 3}, {".*": [3]}, {"query": 2.5}),
    "alpha_pattern": ({"*": 3}, {".*": "x"}, {".*": float("inf")}, {".*": 1e308}, {".*": {}}, 7, {"(a+)+$": 3}, {".*": 0}),
    "target_modules": ("all-linear", None, 3, [], ["nope"], {"a": 1}, ["(("], "../../etc/passwd"),
    "modules_to_save": ("x", ["classifier"], [3], {"a": 1}, 5, [None], [[]]),
    "bias": ("all", "lora_only", "x", None, 3, [], {}),
    "peft_type": ("IA3", None, 3, [], {}, "lora"),
    "use_rslora": (True, "x", 1, []),
    "use_dora": (True, "x", 1, []),
    "init_lora_weights": ("pissa", "gaussian", 3, [], {}, "PISSA_niter_4"),
    "layer_replication": ([[0, 1]], "x"),
    "fan_in_fan_out": (True, "x"),
    "lora_bias": (True, "x"),
}  # fmt: skip


def fields(config: dict[str, Any], rng: Random) -> str:
    """A field that the reader looks at gets an absurd value."""
    name = _pick(_FIELDS, rng)
    config[name] = _pick(_FIELDS[name], rng)
    return f"{name} = {str(config[name])[:60]}"


def missing(config: dict[str, Any], rng: Random) -> str:
    """A field removed."""
    name = _pick(("r", "lora_alpha", "peft_type", "target_modules", "bias", "rank_pattern"), rng)
    del config[name]
    return f"no {name}"


def harmless(config: dict[str, Any], rng: Random) -> str:
    """Fields that only training reads, and the order of fields."""
    config |= {"lora_dropout": 0.5, "inference_mode": False, "revision": "main", "some_new_field": None}
    for name in rng.permutation(sorted(config)):
        config[str(name)] = config.pop(str(name))
    return "harmless"


def _not_an_object(folder: Path, rng: Random) -> str:
    text = _pick(("[]", "3", "null", '"x"', "", "{" * 5000, "[" * 100000, '{"peft_type": "LORA"', "1e999999", "9" * 5000), rng)
    (folder / "adapter" / "adapter_config.json").write_text(text)
    return text[:20]


def _tensors(change: Callable[[Tensors, Random], str]) -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        path = folder / "adapter" / "adapter_model.safetensors"
        tensors = load_file(path)
        text = change(tensors, rng)
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)
        return text

    return apply


def values(tensors: Tensors, rng: Random) -> str:
    """NaN, infinity, huge and tiny numbers."""
    name = _pick(sorted(tensors), rng)
    t = tensors[name].copy()
    new = _pick((np.nan, np.inf, -np.inf, 0.0, 1e30, 3e38, 1e-38, 1e-45, -1e20), rng)
    if rng.integers(2):
        t.reshape(-1)[int(rng.integers(t.size))] = new
    else:
        t[...] = new
    tensors[name] = t
    return f"{name} has {new}"


def swapped(tensors: Tensors, rng: Random) -> str:
    """A and B exchanged, of one module or between modules."""
    a, b = rng.permutation(sorted(tensors))[:2]
    tensors[a], tensors[b] = tensors[b], tensors[a]
    return f"{a} and {b} swapped"


def shapes(tensors: Tensors, rng: Random) -> str:
    """Other shapes, transposed, of other ranks, without elements."""
    name = _pick(sorted(tensors), rng)
    t = tensors[name]
    forms = (
        t.T, t[:-1], t[:, :-1], t.reshape(-1), t[None], t[:0], t[:, :0], np.zeros((0, 0), np.float32), np.zeros((), np.float32),
        np.tile(t, (2, 1)), np.zeros((4000, t.shape[1]), np.float32),
    )  # fmt: skip
    tensors[name] = np.asarray(_pick(forms, rng))
    return f"{name} is {tensors[name].shape}"


def kinds(tensors: Tensors, rng: Random) -> str:
    """Other element types."""
    name = _pick(sorted(tensors), rng)
    tensors[name] = tensors[name].astype(_pick((np.float64, np.float16, np.int8, np.int64, np.bool_, np.uint16), rng))
    return f"{name} in {tensors[name].dtype}"


def names(tensors: Tensors, rng: Random) -> str:
    """Tensors missing, renamed, of modules that do not exist."""
    name = _pick(sorted(tensors), rng)
    t = tensors.pop(name)
    new = _pick(
        ("", "x", "base_model.model.nope.lora_A.weight", name.replace("lora_A", "lora_C"), name + ".x", "é", "../x",
         "base_model.model.lora_A.weight", "." * 2000 + ".lora_A.weight", name.replace("query", "value"), "lora_embedding_A",
         name.replace("lora_A.weight", "weight"), name.replace("lora_B.weight", "lora_magnitude_vector"),
         name.replace("lora_B.weight", "lora_B.bias"), name.replace(".weight", ".default.weight")),
        rng,
    )  # fmt: skip
    if rng.integers(4):
        tensors[new] = t
    return f"{name} -> {new[:60]}"


def _keys(tensors: Tensors, change: Callable[[str], str]) -> None:
    for name in sorted(tensors):
        tensors[change(name)] = tensors.pop(name)


def wrapped(tensors: Tensors, rng: Random) -> str:
    """What DDP, torch.compile and PEFT's named adapters put into names changes nothing."""
    name = str(_pick(("law", "default", "0", "a_b-c"), rng))
    how = int(rng.integers(4))
    changes: tuple[Callable[[str], str], ...] = (
        lambda key: key.replace(".weight", f".{name}.weight"),
        lambda key: f"module.{key}",
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod.model."),
        lambda key: key.removeprefix("base_model.model."),
    )
    _keys(tensors, changes[how])
    return f"wrapped {how} {name}"


def moved(tensors: Tensors, rng: Random) -> str:
    """Modules of another tower, or with a component more, less or other: no linear is theirs."""
    prefix = "base_model.model."
    module = str(_pick(sorted({key.rsplit(".lora_", 1)[0] for key in tensors}), rng)).removeprefix(prefix)
    parts = module.split(".")
    tower = str(_pick(("vision_tower", "audio", "encoder_2", "x"), rng))
    ways = ([tower, *parts], [*parts, tower], [*parts[:-1], tower, parts[-1]], [*parts[:-1], tower], [*parts[:-2], parts[-1]])
    new = ".".join(_pick(ways, rng))
    _keys(tensors, lambda key: key.replace(f"{prefix}{module}.lora_", f"{prefix}{new}.lora_"))
    return f"{module} -> {new}"


def foreign(tensors: Tensors, rng: Random) -> str:
    """Names of other formats, all or one."""
    ends = (
        ("processor.to_q_lora.down.weight", "processor.to_q_lora.up.weight"), ("hada_w1_a", "hada_w1_b"),
        ("lokr_w1", "lokr_w2"), ("lora_a", "lora_b"), ("oft_R.weight", "oft_s"),
    )  # fmt: skip
    return _renamed(tensors, rng, *_pick(ends, rng))


def kohya(tensors: Tensors, rng: Random) -> str:
    """Names of A and B that other tools write, all or one: they are taken."""
    return _renamed(tensors, rng, "lora_down.weight", "lora_up.weight")


def _renamed(tensors: Tensors, rng: Random, a: str, b: str) -> str:
    only = str(_pick(sorted(tensors), rng)) if rng.integers(2) else ""
    _keys(tensors, lambda key: key.replace("lora_A.weight", a).replace("lora_B.weight", b) if only in ("", key) else key)
    return f"{a}, {b}"


def none(tensors: Tensors, rng: Random) -> str:
    """No tensors at all, or only one."""
    for name in sorted(tensors)[int(rng.integers(2)) :]:
        del tensors[name]
    return f"{len(tensors)} left"


def _header(folder: Path, rng: Random) -> str:
    """The safetensors header: its length, offsets that overlap or leave the file, shapes that do not fit."""
    path = folder / "adapter" / "adapter_model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = int(rng.integers(6))
    if how == 0:
        length = _pick((0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1), rng)
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        return f"header of {length}"
    name = _pick([k for k in sorted(header) if k != "__metadata__"], rng)
    entry = header[name]
    if how == 1:
        entry["data_offsets"] = _pick(([0, 0], [0, 2**40], [-1, 4], [8, 4], [0, 10**30], [], None, "x", [0]), rng)
    elif how == 2:
        entry["shape"] = _pick(([2**40, 2**40], [-1, 3], [0], [2**63], [], None, "x", [2**32, 2**32], [1.5]), rng)
    elif how == 3:
        entry["dtype"] = _pick(("F8_E4M3", "X", None, 3, "BF16", "F16", "I64", ""), rng)
    elif how == 4:
        other = _pick([k for k in sorted(header) if k != "__metadata__"], rng)
        entry["data_offsets"] = header[other]["data_offsets"]
    else:
        header["__metadata__"] = _pick((3, {"a": 1}, [], "x", {"format": "np"}), rng)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return f"header {how} of {name}"


def _files(folder: Path, rng: Random) -> str:
    """Files missing, folders in their place, a pickle beside nothing."""
    name = _pick(("adapter_config.json", "adapter_model.safetensors"), rng)
    path = folder / "adapter" / name
    path.unlink()
    how = int(rng.integers(4))
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.symlink(name, path)
    elif how == 2:
        (folder / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    return f"no {name} {how}"


def _link(folder: Path, rng: Random) -> str:
    """A file of the adapter is a link to a file outside."""
    name = _pick(("adapter_config.json", "adapter_model.safetensors"), rng)
    path = folder / "adapter" / name
    (folder.parent / f"outside-{name}").write_bytes(path.read_bytes())
    path.unlink()
    os.symlink(folder.parent / f"outside-{name}", path)
    return f"{name} is a link"


ADAPTER = [
    *of_bytes(lambda folder, rng: folder / "adapter" / "adapter_model.safetensors"),
    *of_bytes(lambda folder, rng: folder / "adapter" / "adapter_config.json"),
    *[Mutation("fields", _config(fields))] * 4,
    Mutation("missing", _config(missing)),
    Mutation("any-field", _config(edit_json)),
    Mutation("not-an-object", _not_an_object, REFUSED),
    *[Mutation("values", _tensors(values))] * 2,
    Mutation("swapped", _tensors(swapped)),
    *[Mutation("shapes", _tensors(shapes))] * 2,
    Mutation("kinds", _tensors(kinds)),
    Mutation("names", _tensors(names)),
    Mutation("none", _tensors(none)),
    Mutation("wrapped", _tensors(wrapped), SAME),
    *[Mutation("moved", _tensors(moved), REFUSED)] * 2,
    Mutation("foreign", _tensors(foreign), REFUSED),
    Mutation("kohya", _tensors(kohya), SAME),
    *[Mutation("header", _header)] * 3,
    Mutation("files", _files, REFUSED),
    Mutation("link", _link, REFUSED),
    Mutation("harmless", _config(harmless), SAME),
]
