"""ONNX files in OpenVINO on the CPU, compiled for each shape of image that comes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError, UsageError
from compress.core.machine import require
from compress.kit.ship.sigstack import own_signal_stack

Precision = Literal["float32", "bf16"]
Shape = tuple[int, ...]

_HINTS = {"float32": "f32", "bf16": "bf16"}
_KEPT = 4  # compiled shapes: each holds the weights once more, as its kernels want them
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def import_openvino() -> Any:
    """Import OpenVINO without its reports to Google Analytics, which every import would send unasked.

    It goes without where its package openvino_telemetry is not there; so for the time of the import it is not.

    Raises:
        MissingExtraError: If openvino is not installed.
    """
    require("openvino")
    reports = "openvino_telemetry"
    hidden = reports not in sys.modules
    if hidden:
        sys.modules[reports] = None  # type: ignore[assignment]  # what `import` takes for "there is no such package"
    try:
        import openvino
        import openvino.frontend
    finally:
        if hidden:
            del sys.modules[reports]
    return openvino


class OpenVinoRunner:
    """Runs an ONNX file: its one image input, one of its outputs (a ``formats.base.Runner``).

    A graph whose sides are free is compiled for one shape at a time, because kernels for free sides are slow; the last
    four shapes stay compiled, so that a stream of photos of one size is compiled once.

    ``describe`` says beside the usual in what "precision" layers in float compute, how many convolutions and matrix
    products there are ("layers") and how many of them compute in 8 bits ("int8_layers"). The last two are those of the
    shape compiled first, and are there only once there is one.

    Args:
        path: The file.
        output: Name of the output to return; the first one where the file has none of that name.
        threads: Threads of one run; 0 leaves the choice to OpenVINO.
        precision: What layers in float compute in. Left alone, OpenVINO takes bfloat16 wherever the CPU has it, and
            its pictures are then not those of a float32 network.
        shape: (N, C, H, W) to compile for at once where the file leaves a side free; it need not come.

    Raises:
        MissingExtraError: If openvino is not installed.
        ArtifactError: If the file is absent or OpenVINO can't load it.
        UsageError: If bfloat16 is asked for and this CPU has none.
    """

    @own_signal_stack()
    def __init__(
        self,
        path: Path,
        *,
        output: str = "",
        threads: int = 0,
        precision: Precision = "float32",
        shape: Shape | None = None,
    ) -> None:
        self._openvino = import_openvino()
        if not path.is_file():
            raise ArtifactError(f"no ONNX file '{path}'")
        self._core = self._openvino.Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("this CPU does not compute in bfloat16", hint="take precision float32")
        self._settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = str(threads)
        self.describe: dict[str, Any] = {
            "runtime": "openvino",
            "version": self._openvino.__version__.split("-")[0],
            "threads": threads,
            "provider": "CPU",
            "precision": precision,
        }
        self._compiled: OrderedDict[Shape, Any] = OrderedDict()
        self._requests: dict[Shape, Any] = {}
        self._load(path, output, shape)

    def _load(self, path: Path, output: str, shape: Shape | None) -> None:
        try:
            # not Core.read_model: what is no ONNX it hands to the readers of every other format
            reader = self._openvino.frontend.FrontEndManager().load_by_framework("onnx")
            self._model = reader.convert(reader.load(str(path)))
            self._wanted = self._model.input().get_partial_shape()
            ports = [port.get_names() for port in self._model.outputs]
            self._output = next((index for index, names in enumerate(ports) if output in names), 0)
            first = shape if self._wanted.is_dynamic else tuple(self._wanted.to_shape())
            if first is not None:
                self._compile(first)
        # its readers raise classes of their own, its compiler RuntimeError
        except Exception as error:
            raise ArtifactError(
                f"OpenVINO can't load '{path.name}': {_said(error)}", hint="write or fetch it again, or take target cpu"
            ) from error

    @own_signal_stack()
    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W) to the output (N, C', H', W').

        Raises:
            UsageError: If the network doesn't take an image of that shape.
        """
        # another size of a graph whose sides are fixed would compile, and give wrong pictures
        if not self._wanted.compatible(self._openvino.PartialShape(list(image.shape))):
            raise self._unfit(image)
        try:
            request = self._request(image.shape)
            request.infer([np.ascontiguousarray(image)], share_inputs=True)
        except RuntimeError as error:
            raise self._unfit(image, f"OpenVINO says: {_said(error)}") from error
        return np.array(request.get_output_tensor(self._output).data, np.float32)

    def _request(self, shape: Shape) -> Any:
        if shape not in self._requests:
            self._make_room(shape)
            if shape not in self._compiled:
                self._compile(shape)
            self._requests[shape] = self._compiled[shape].create_infer_request()
        self._compiled.move_to_end(shape)
        return self._requests[shape]

    def _make_room(self, shape: Shape) -> None:
        """Drop what was compiled and never came, then the shape that came longest ago."""
        for known in list(self._compiled):
            unused = known not in self._requests
            if known != shape and (unused or len(self._compiled) >= _KEPT):
                del self._compiled[known]
                self._requests.pop(known, None)

    def _compile(self, shape: Shape) -> None:
        self._model.reshape(list(shape))
        self._compiled[shape] = self._core.compile_model(self._model, "CPU", self._settings)
        if "layers" not in self.describe:
            self.describe |= _layers(self._compiled[shape])

    def _unfit(self, image: NDArray[np.float32], hint: str = "") -> UsageError:
        wanted = str(self._wanted)
        return UsageError(f"the network wants an image of shape {wanted}, found {list(image.shape)}", hint=hint)

    @own_signal_stack()
    def close(self) -> None:
        """Free the compiled graphs."""
        self._requests.clear()
        self._compiled.clear()
        del self._model, self._core


def _layers(compiled: Any) -> dict[str, int]:
    """Count the convolutions and matrix products of a compiled graph, and those with a kernel of 8-bit integers."""
    kernels = [
        str(info["primitiveType"].value)
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        if str(info["layerType"].value) in _WEIGHTED
    ]
    return {"layers": len(kernels), "int8_layers": sum(kernel.endswith("_I8") for kernel in kernels)}


def _said(error: Exception) -> str:
    """Return the last line of an error; the lines before say where in OpenVINO's sources it arose."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][-160:] if lines else type(error).__name__
