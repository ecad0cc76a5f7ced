"""Opens what peers made: ONNX files, OpenVINO's own, exported torch programs compiled by Inductor."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import CompressError
from compress.formats.base import Runner
from compress.formats.onnx import OnnxRunner
from compress.kit.ship.openvino import OpenVinoRunner, import_openvino
from compress.kit.ship.runtime import quiet

Shape = tuple[int, ...]  # (1, C, H, W), of every image
Opener = Callable[[], Runner]


def openers(file: Path, shape: Shape, threads: int) -> dict[str, Opener]:
    """Return what opens a file, by runtime; the one its pictures are scored in first."""
    if file.suffix == ".pt2":
        return {
            "torch": lambda: TorchRunner(file, threads=threads),
            "inductor": lambda: TorchRunner(file, threads=threads, compiled=True),
        }
    has_openvino = importlib.util.find_spec("openvino") is not None
    if file.suffix == ".xml":
        if not has_openvino:
            raise CompressError("this needs the extra 'openvino'", hint="pip install 'image-compress[openvino]'")
        return {"openvino": lambda: IrRunner(file, shape, threads)}
    found: dict[str, Opener] = {"ort": lambda: OnnxRunner(file, threads=threads)}
    if has_openvino:
        found["openvino"] = lambda: OpenVinoRunner(file, threads=threads, shape=shape)
    return found


def stored_bytes(file: Path) -> int:
    """Return what a network weighs on disk; OpenVINO keeps weights beside the graph."""
    weights = file.with_suffix(".bin")
    return file.stat().st_size + (weights.stat().st_size if file.suffix == ".xml" and weights.exists() else 0)


class IrRunner:
    """Runs OpenVINO's own format, float layers in float32, for images of one shape."""

    def __init__(self, file: Path, shape: Shape, threads: int) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        model = core.read_model(file)
        model.reshape(list(shape))
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self.describe: dict[str, Any] = {
            "runtime": "openvino",
            "version": openvino.__version__.split("-")[0],
            "threads": threads,
            "provider": "CPU",
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map an image of the shape given to the first output."""
        self._request.infer({0: image})
        return cast("NDArray[np.float32]", self._request.get_output_tensor(0).data.copy())

    def close(self) -> None:
        """Free the compiled model."""
        del self._request


class TorchRunner:
    """Runs an exported torch program, as it is or compiled by Inductor with its weights frozen."""

    def __init__(self, file: Path, *, threads: int, compiled: bool = False) -> None:
        import torch

        with quiet():
            # enters the operators that round into torch's registry
            import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as _x86  # type: ignore[import-untyped]

            assert _x86
            module: Any = torch.export.load(file).module(check_guards=False)
        if compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            module = torch.compile(module)
        self._module, self._threads = module, threads
        self.describe: dict[str, Any] = {
            "runtime": "inductor" if compiled else "torch",
            "version": torch.__version__,
            "threads": threads,
            "provider": "CPU",
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map an image of the size it was traced at to the picture."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.no_grad():
                output = self._module(torch.from_numpy(np.ascontiguousarray(image)))
            return cast("NDArray[np.float32]", output.numpy())
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Free the module."""
        del self._module
