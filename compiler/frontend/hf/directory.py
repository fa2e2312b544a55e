"""A directory as an ONNX model."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

from axlora.compiler.frontend.hf import decoder, encoder
from axlora.compiler.frontend.hf.config import Decoder, Encoder, described
from axlora.compiler.frontend.hf.quantizers import packing
from axlora.compiler.frontend.hf.weights import Weights, read_json
from axlora.compiler.frontend.hf.writer import Writer

CONFIG = "config.json"
_GPTQ = "quantize_config.json"
"""Where early files of GPTQ say how linears are held."""
_LOG = logging.getLogger(__name__)


def read(folder: Path) -> onnx.ModelProto:
    """The model: weights of floats are external data in the directory's own files; dimensions batch and sequence are free.

    Raises:
        BadModel: files that are missing, damaged, outside of the directory or contradict each other; a kind of model,
            or of quantization, that is not taken.
    """
    data = read_json(folder / CONFIG)
    if "quantization_config" not in data and (folder / _GPTQ).is_file():
        data["quantization_config"] = {"quant_method": "gptq"} | read_json(folder / _GPTQ)
    own = described(data, str(folder))
    weights = Weights(folder)
    if isinstance(own, Encoder):
        weights.renamed("gamma", "weight")
        weights.renamed("beta", "bias")
    to = Writer(weights, packing(data, str(folder)))
    if isinstance(own, Decoder):
        decoder.write(to, own)
    else:
        encoder.write(to, own)
    if unread := weights.unread():
        _LOG.warning("%d tensors of %s are not read, the first %r", len(unread), folder, unread[0])
    return to.model
