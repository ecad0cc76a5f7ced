"""Largest magnitude of every channel of a graph's maps over real pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.kit.quant.calibrate import Feed
from compress.kit.ship.runtime import open_session


def channel_ranges(
    prepared: onnx.ModelProto, feeds: Iterable[Feed], names: Iterable[str], *, threads: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return max |x| (C,) of each of the maps ``names`` over all feeds, in one pass, each feed dropped once seen.

    Maps without places, (N, C), are left out: nobody rounds their channels apart. The graph itself takes the largest
    values, so no map leaves it.

    Raises:
        DataError: If there is no feed.
    """
    wanted = [name for name in dict.fromkeys(names) if name in _with_places(prepared)]
    found: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranges.onnx"
        onnx.save(_with_largest(prepared, wanted), path)
        session = open_session(path, threads=threads, lean=True)
        for feed in feeds:
            values = session.run([f"largest:{name}" for name in wanted], dict(feed)) if wanted else []
            for name, value in zip(wanted, values, strict=True):
                largest = value.reshape(*value.shape[:2], -1).max((0, 2))
                found[name] = np.maximum(found[name], largest) if name in found else largest
    if len(found) < len(wanted):
        raise DataError("there is no image to calibrate with", hint="give --data a folder with photos")
    return found


def _with_places(model: onnx.ModelProto) -> set[str]:
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {
        value.name
        for value in values
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and len(value.type.tensor_type.shape.dim) > 2
    }


def _with_largest(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.output[:]
    for name in names:
        # a pooling over everything reads the same in every operator set
        twin.graph.node.append(onnx.helper.make_node("Abs", [name], [f"magnitude:{name}"]))
        twin.graph.node.append(onnx.helper.make_node("GlobalMaxPool", [f"magnitude:{name}"], [f"largest:{name}"]))
        twin.graph.output.append(onnx.helper.make_tensor_value_info(f"largest:{name}", onnx.TensorProto.FLOAT, None))
    if not names:
        twin.graph.output.extend(model.graph.output)
    return twin
