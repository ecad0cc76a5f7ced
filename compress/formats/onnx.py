"""ONNX: one self-contained graph with its activation inside, run by ONNX Runtime."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.utils
import onnxruntime
from numpy.typing import NDArray
from torch import nn

from compress.core.errors import ArtifactError, UsageError
from compress.core.registry import register
from compress.core.types import Artifact, ImageSpec
from compress.formats.base import Format, Runner
from compress.kit.graph import fold_batch_norm
from compress.kit.ship.external import external_files
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import export_graph, open_session, read_onnx


@dataclass(frozen=True)
class Export:
    """What ``Onnx.write`` wrote: dynamic is True where height and width are free, else ``reason`` says why not."""

    path: Path
    dynamic: bool
    reason: str = ""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph: None in the shape is a free side."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """What an ONNX file is, read without running it."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    operators: dict[str, int]  # how many nodes of each type, functions and sub-graphs not entered
    initializer_bytes: dict[str, int]  # by element type

    @property
    def dtype(self) -> str:
        """Element type that holds most of the weights' bytes."""
        sizes = self.initializer_bytes
        return max(sizes, key=lambda name: sizes[name]) if sizes else "float32"


class OnnxRunner:
    """Runs an ONNX file: its one image input, its first output."""

    def __init__(self, path: Path, *, threads: int = 0, device: str = "cpu") -> None:
        self._session = open_session(path, threads=threads, device=device)
        self._input, self._output = self._session.get_inputs()[0], self._session.get_outputs()[0].name
        self.describe: dict[str, Any] = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "threads": threads,
            "provider": self._session.get_providers()[0],
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W) to the first output (N, C', H', W').

        Raises:
            UsageError: If the network doesn't take an image of that shape.
        """
        try:
            output = self._session.run([self._output], {self._input.name: image})[0]
        # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
        except Exception as error:
            raise UsageError(
                f"the network wants {self._input.name} of shape {self._input.shape}, found {list(image.shape)}",
                hint=f"ONNX Runtime says: {' '.join(str(error).split())[-120:]}",
            ) from error
        return cast("NDArray[np.float32]", output)

    def close(self) -> None:
        """Free the session."""
        del self._session


class Onnx(Format):
    """ONNX files, float32, float16 or int8 inside."""

    name = "onnx"
    suffix = ".onnx"

    def load(self, folder: Path, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
        """Open the artifact's graph in ONNX Runtime; see ``Format.load``."""
        return OnnxRunner(self.weights(folder, artifact), threads=threads, device=device)

    def write(
        self,
        module: nn.Module,
        path: Path,
        *,
        input: ImageSpec,
        output: ImageSpec,
        size: tuple[int, int],
        dynamic: bool = True,
        stride: int = 32,
        opset: int | None = None,
    ) -> Export:
        """Write a module, batch norms folded, as one ONNX file whose batch size is free.

        Args:
            module: Maps image (N, C, H, W) to one tensor (see ``kit.ship.runtime.Shipped``). Stays as it is.
            path: The file to write.
            input: Names the graph's input and counts its channels.
            output: Names the graph's output.
            size: Height and width of a usual image, in pixels.
            dynamic: Try to leave height and width free. Kept only where the graph agrees with the module to 1e-3
                at this size and at another one.
            stride: The sides must be a multiple of this.
            opset: Operator set to write; None takes the exporter's own.

        Raises:
            ArtifactError: If the module can't be written at a fixed size either.
        """
        shipped = fold_batch_norm(module)
        reason = "asked for a fixed size"
        if dynamic:
            reason = _try_dynamic(shipped, path, input, output, size, stride, opset)
        if dynamic and not reason:
            return Export(path, dynamic=True)
        try:
            _export(shipped, path, input, output, size, opset, free=(0,))
        # the exporter fails in as many ways as networks can be written
        except Exception as error:
            raise ArtifactError(
                f"{type(module).__name__} can't become ONNX: {_short(error)}", hint="see the exporter's own message"
            ) from error
        return Export(path, dynamic=False, reason=reason)


def _try_dynamic(
    module: nn.Module,
    path: Path,
    input: ImageSpec,
    output: ImageSpec,
    size: tuple[int, int],
    stride: int,
    opset: int | None,
) -> str:
    """Write with free sides; return "" or why the result is no good."""
    # sides that differ, so that the exporter can't take height and width for one number
    height, width = size
    try:
        _export(module, path, input, output, (height, width + stride), opset, free=(0, 2, 3))
        shape = inspect(path).inputs[0].shape
        if any(shape[axis] is not None for axis in (0, 2, 3)):
            return f"the exporter fixed a side: {shape}"
        sizes = ((height, width), (height + stride, width + 2 * stride))
        check_parity(module, path, [_noise(input.channels, side, seed) for seed, side in enumerate(sizes)])
    # an exporter that can't leave the sides free fails in many ways; the reason travels in the record
    except Exception as error:
        return _short(error)
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _noise(channels: int, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, channels, *size)).astype(np.float32)


def _export(
    module: nn.Module,
    path: Path,
    input: ImageSpec,
    output: ImageSpec,
    size: tuple[int, int],
    opset: int | None,
    *,
    free: tuple[int, ...],
) -> None:
    names = (input.name, output.name)
    export_graph(module, path, channels=input.channels, size=size, names=names, free=free, opset=opset)


def inspect(path: Path) -> Signature:
    """Read what an ONNX file takes, gives and is made of.

    Raises:
        ArtifactError: If the file is no valid ONNX, or doesn't take exactly one float image of four sides, channels
            before height and width.
    """
    model = read_onnx(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_port(value) for value in model.graph.input if value.name not in stored)
    _check_image_input(path, inputs)
    return Signature(
        inputs,
        tuple(_port(value) for value in model.graph.output),
        max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        dict(Counter(node.op_type for node in model.graph.node)),
        _initializer_bytes(model),
    )


def extract(source: Path, target: Path, input_name: str, output_name: str) -> None:
    """Copy an ONNX file with one of its outputs only, without what just fed the others, its data inside."""
    model = read_onnx(source)
    outside = bool(external_files(source))
    if len(model.graph.output) > 1:
        model = onnx.utils.Extractor(model).extract_model([input_name], [output_name])
        onnx.save(model, target)
    elif outside:
        onnx.save(model, target)
    else:
        shutil.copyfile(source, target)


def _check_image_input(path: Path, inputs: tuple[Port, ...]) -> None:
    found = ", ".join(f"{port.name} {port.dtype} {list(port.shape)}" for port in inputs) or "none"
    wanted = "one float image (N, C, H, W)"
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in ("float32", "float16"):
        raise ArtifactError(f"'{path.name}' wants inputs {found}; an image network takes {wanted}")
    _, channels, _, last = inputs[0].shape
    if last in (1, 3) and (channels is None or channels > 4):
        raise ArtifactError(f"'{path.name}' takes channels last ({found}), wanted {wanted}", hint="export it as NCHW")


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return Port(value.name, sides, _type_name(tensor.elem_type))


def _type_name(kind: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        return "unknown"


def _initializer_bytes(model: onnx.ModelProto) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        sizes[str(values.dtype)] += values.nbytes
    return dict(sizes)


register(__name__, Onnx())
