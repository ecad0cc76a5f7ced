"""Float16 storage of an ONNX file: half the bytes, the arithmetic stays float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ArtifactError, UsageError
from compress.core.whole import written_whole
from compress.kit.quant.qdq import replace_nodes
from compress.kit.ship.runtime import float_initializers, open_session, read_onnx

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Float16Report:
    """What storing weights as float16 did; ``left`` says of each weight that stays float32, by name, why."""

    stored: int  # weights now float16
    left: dict[str, str]
    bytes_before: int
    bytes_after: int


def to_float16(source: Path, target: Path) -> Float16Report:
    """Store the weights of an ONNX file as float16, each followed by a Cast to float32.

    It halves the file and no more: ONNX Runtime folds the casts when it loads, so that speed and memory are those
    of float32. Graphs that also compute in float16 were no faster on a CPU and twice as far from the original.
    Input, output, biases and every other vector stay float32: they weigh nothing, and large biases lose whole units.

    Args:
        source: A float32 ONNX file; it is only read.
        target: Where the new file goes, whole or not at all.

    Raises:
        ArtifactError: If the source is no ONNX file or has no float32 weights.
        UsageError: If source and target are one file.
    """
    if source.resolve() == target.resolve():
        raise UsageError(f"source and target are one file, '{source.name}'")
    model = read_onnx(source)
    weights = {name: value for name, value in float_initializers(model).items() if value.ndim >= 2}
    left = {name: "values beyond 65504" for name, value in weights.items() if np.abs(value).max() > _LARGEST}
    stored = [name for name in weights if name not in left]
    if not stored:
        raise ArtifactError(f"'{source.name}' has no float32 weights to store as float16")
    _store(model, stored)
    with written_whole(target) as scratch:
        onnx.checker.check_model(model)
        onnx.save(model, scratch)
        open_session(scratch)
        return Float16Report(len(stored), left, source.stat().st_size, scratch.stat().st_size)


def _store(model: onnx.ModelProto, names: list[str]) -> None:
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.name in names:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}_half"))
    # before version 4 of the format every initialiser was an input too
    for value in [value for value in model.graph.input if value.name in names]:
        model.graph.input.remove(value)
    replace_nodes(model, [*casts, *model.graph.node])
