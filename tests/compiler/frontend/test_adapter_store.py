"""Where an adapter's files lie: pickles, shards, checkpoints, folders by name, a file itself; and nothing beyond its folder."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_adapters import pair

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftContent
from axlora.compiler.frontend.peft import adapter_files, read_content

Write = Callable[..., Path]
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float64": "DoubleStorage"}


class _Global:
    """What a pickle names: a function or a class of PyTorch, which is not installed here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Call:
    """A call of one, as `__reduce__` writes it."""

    def __init__(self, function: _Global, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


class _Storage:
    def __init__(self, *pid: object) -> None:
        self.pid = pid


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes those as torch.save does."""

    def persistent_id(self, value: object) -> object:
        return value.pid if isinstance(value, _Storage) else None

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Global):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def saved_by_torch(file: Path, tensors: dict[str, np.ndarray], extra: object = None, **changes: Any) -> None:
    """A file as torch.save writes it: a zip of a pickle and of a storage for each tensor.

    Args:
        extra: one more value of the dictionary.
        changes: offset, shape or stride of every tensor.
    """
    values: OrderedDict[str, Any] = OrderedDict()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, value) in enumerate(tensors.items()):
            kind = _Global("torch", STORAGES[value.dtype.name])
            storage = _Storage("storage", kind, str(number), "cpu", value.size)
            stride = tuple(s // value.itemsize for s in value.strides)
            layout = {"offset": 0, "shape": value.shape, "stride": stride} | changes
            rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
            values[name] = _Call(rebuild, storage, *layout.values(), False, OrderedDict())
            archive.writestr(f"archive/data/{number}", value.tobytes())
        if extra is not None:
            values["extra"] = extra
        data = io.BytesIO()
        _Pickler(data, protocol=2).dump(values)
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/byteorder", "little")


def same(one: PeftContent, other: PeftContent) -> bool:
    pairs = zip(one.loras, other.loras, strict=True)
    return all(a.module == b.module and a.scale == b.scale and np.array_equal(a.a @ a.b, b.a @ b.b) for a, b in pairs)


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_a_pickle_is_read_without_pytorch(write_peft: Write, kind: str, suffix: str) -> None:
    types = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
    tensors = {name: v.astype(types.get(kind, np.float32)) for name, v in (pair("q") | pair("up")).items()}
    folder = write_peft({name: v.astype(np.float32) for name, v in tensors.items()})
    wanted = read_content(folder)
    (folder / "adapter_model.safetensors").unlink()
    saved_by_torch(folder / f"adapter_model.{suffix}", tensors)
    assert same(read_content(folder), wanted)
    assert adapter_files(folder) == (folder / "adapter_config.json", folder / f"adapter_model.{suffix}")


def test_a_real_file_of_pytorch(write_peft: Write) -> None:
    """torch.save of PyTorch 2.13: lora_A with a step of 2 in its storage, lora_B a parameter in bfloat16."""
    folder = write_peft({"x": np.zeros(1, np.float32)}, r=2, lora_alpha=2)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes((Path(__file__).parents[1] / "models" / "adapter_model.bin").read_bytes())
    (lora,) = read_content(folder).loras
    assert lora.module == "q"
    assert np.array_equal(lora.a, np.arange(0, 12, 2).reshape(2, 3).T)
    assert np.array_equal(lora.b, np.array([[0.5, 1, 1.5, 2], [2.5, 3, 3.5, 4]]))


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("harm").touch, ())


@pytest.mark.parametrize(
    ("extra", "changes", "text"),
    [
        (_Call(_Global("os", "system"), "touch harm"), {}, r"its pickle holds os.system"),
        (_Call(_Global("builtins", "eval"), "1"), {}, r"builtins.eval"),
        (_Harm(), {}, "its pickle holds"),
        (3, {}, "no dictionary of tensors"),
        (None, {"offset": 3}, "beyond its storage"),
        (None, {"stride": (-1, 1)}, "negative sizes"),
        (None, {"shape": (1 << 40,), "stride": (0,)}, "larger than its storage"),
        (None, {"shape": ("a",)}, "damaged file of torch.save"),
    ],
)
def test_a_pickle_that_is_more_than_tensors_runs_nothing(
    write_peft: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: object, changes: dict[str, Any], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_peft(pair("q"))
    (folder / "adapter_model.safetensors").unlink()
    saved_by_torch(folder / "adapter_model.bin", pair("q"), extra, **changes)
    with pytest.raises(BadAdapter, match=text):
        read_content(folder)
    assert not Path("harm").exists()


def test_damaged_and_old_pickles(write_peft: Write) -> None:
    folder = write_peft(pair("q"))
    (folder / "adapter_model.safetensors").unlink()
    for data, text in ((b"\x80\x02", "before PyTorch 1.6"), (b"PK\x03\x04", "damaged file")):
        (folder / "adapter_model.bin").write_bytes(data)
        with pytest.raises(BadAdapter, match=text) as error:
            read_content(folder)
        assert error.value.hint


def sharded(folder: Path, index: bool, names: tuple[str, ...] = ()) -> None:
    """Split the tensors over two files."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = names or tuple(f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2))
    split = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    for name, own in zip(names, split, strict=True):
        if Path(name).name == name != "" and name != "..":
            save_file(own, folder / name)
    if index:
        weights = {key: name for name, own in zip(names, split, strict=True) for key in own}
        (folder / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


@pytest.mark.parametrize("index", [False, True])
def test_shards(write_peft: Write, index: bool) -> None:
    folder = write_peft(pair("q") | pair("up"))
    wanted = read_content(folder)
    sharded(folder, index)
    assert same(read_content(folder), wanted)
    assert len(adapter_files(folder)) == 3
    (folder / "adapter_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadAdapter, match="is missing" if index else "1 of 2 shards"):
        read_content(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "inner/a.safetensors", "..", ""])
def test_an_index_names_nothing_outside_the_folder(write_peft: Write, name: str) -> None:
    folder = write_peft(pair("q") | pair("up"))
    sharded(folder, True, ("adapter_model-00001-of-00002.safetensors", name))
    with pytest.raises(BadAdapter, match="no file of the adapter's folder"):
        read_content(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "x"])
def test_a_damaged_index(write_peft: Write, text: str) -> None:
    folder = write_peft(pair("q"))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors.index.json").write_text(text)
    with pytest.raises(BadAdapter, match=r"no index of shards|names no shard"):
        read_content(folder)


def test_a_tensor_in_two_shards(write_peft: Write) -> None:
    folder = write_peft(pair("q"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model-00001-of-00002.safetensors")
    save_file(pair("q"), folder / "adapter_model-00002-of-00002.safetensors")
    with pytest.raises(BadAdapter, match="is in two files"):
        read_content(folder)


def test_a_shard_that_links_out_of_the_folder(write_peft: Write, tmp_path: Path) -> None:
    folder = write_peft(pair("q") | pair("up"))
    sharded(folder, True)
    (folder / "adapter_model-00001-of-00002.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "adapter_model-00001-of-00002.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(BadAdapter, match="links out of the adapter's folder"):
        read_content(folder)


def test_the_file_itself(write_peft: Write) -> None:
    folder = write_peft(pair("q"))
    wanted = read_content(folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert same(read_content(folder / name), wanted)
    (folder / "adapter_model.safetensors").rename(folder / "law.safetensors")
    assert same(read_content(folder), wanted)


def test_the_last_checkpoint_and_the_only_adapter_are_taken(write_peft: Write, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for step in (20, 100, 3):
        write_peft(pair("q"), f"run/checkpoint-{step}", lora_alpha=step)
    (tmp_path / "run" / "trainer_state.json").write_text("{}")
    found = read_content(tmp_path / "run")
    assert found.loras[0].scale == 25
    assert found.notices == (f"{tmp_path / 'run'}: taken is the adapter in checkpoint-100, the last of 3 checkpoints",)
    write_peft(pair("q"), "run/law")
    with pytest.raises(BadAdapter, match=r"4 adapters .* in folders of their own"):
        read_content(tmp_path / "run")
    (tmp_path / "one").mkdir()
    write_peft(pair("q"), "one/law")
    assert read_content(tmp_path / "one").notices == (f"{tmp_path / 'one'}: taken is the adapter in law",)


@pytest.mark.parametrize("count", [2, 12])
def test_adapters_in_folders_of_their_own_are_named(write_peft: Write, tmp_path: Path, count: int) -> None:
    names = [f"a{i:02}" for i in range(count)]
    for name in names:
        write_peft(pair("q"), name)
    with pytest.raises(BadAdapter, match="in folders of their own") as error:
        read_content(tmp_path)
    assert all(name in error.value.message for name in names[:8])
    assert str(tmp_path / "a00") in error.value.hint
    assert read_content(tmp_path / "a00").loras
