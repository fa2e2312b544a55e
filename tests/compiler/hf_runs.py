"""Hugging Face directories in float, and on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf_models as H
import numpy as np

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_transformer
from axlora.compiler.pipelines.samples import products
from axlora.compiler.rows.float_forms import embed, evaluate

SHAPE = {"batch": 1, "sequence": H.TOKENS}
BOUND = 0.04
"""Of decoders in 8 bits, as of those that PyTorch exports (test_decoders.py)."""


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def float_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    """[tokens, vocabulary] of the recognised decoder, ids [1, tokens]."""
    proto, where = onnx_reader.read(folder, SHAPE)
    g, found = recognise(proto, passes=READ_WHOLE)
    model = read_transformer(g, found, where)
    return np.asarray(evaluate(model, embed(model, {"input_ids": ids[0]}), products(merge_graph(found)))[model.output])


def generator(folder: Path, ids: np.ndarray, **options: Any) -> axlora.Program:
    """The decoder with a cache, on target `test`."""
    return axlora.compile(folder, "test", generate=True, max_context=24, calibration={"input_ids": ids}, **options)
