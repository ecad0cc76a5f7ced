"""ONNX files and sessions: the graph that ships, reading, opening and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import onnx
import onnxruntime
import torch
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor, nn

from compress.core.errors import ArtifactError, MissingExtraError
from compress.core.whole import written_whole
from compress.kit.ship.external import check_external

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Shipped(nn.Module):
    """The part of a network that ships: its first output, made into the task's picture.

    Args:
        module: Maps image (N, C, H, W) to a tensor or to a sequence of raw outputs.
        activate: Maps the first raw output to the picture of the same shape (a task's ``activate``).
    """

    def __init__(self, module: nn.Module, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.activate = activate

    def forward(self, image: Tensor) -> Tensor:
        """Map image (N, C, H, W) to the shipped picture (N, C', H', W')."""
        outputs = self.module(image)
        return self.activate(outputs if isinstance(outputs, Tensor) else cast("Tensor", outputs[0]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and quantizers print, log and warn about; exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_graph(
    module: nn.Module,
    path: Path,
    *,
    channels: int,
    size: tuple[int, int],
    names: Sequence[str],
    free: Sequence[int] = (0,),
    opset: int | None = None,
) -> None:
    """Write a module in eval mode as one ONNX file, its exporter kept silent.

    Args:
        module: Maps image (N, channels, H, W) to a tensor or a tuple of them.
        path: The file to write, whole or not at all.
        channels: Channels of the image.
        size: Height and width of the image.
        names: Names of the input and of every output.
        free: Axes of the image that stay free: 0 batch, 2 height, 3 width.
        opset: Operator set; None takes the exporter's own.

    Raises:
        Exception: Whatever the exporter meets in the network; it has no error tree of its own.
    """
    # two images: torch.export takes a batch of one for a constant
    example = torch.zeros(2, channels, *size)
    sides = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    with written_whole(path) as scratch, quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
            input_names=[names[0]],
            output_names=list(names[1:]),
            dynamic_shapes=(sides,),
            opset_version=opset,
        )
        assert program is not None
        model = program.model_proto
        _drop_traces(model)
        onnx.save(model, scratch)


def _drop_traces(model: onnx.ModelProto) -> None:
    """Drop the stack trace of every node and value: many kilobytes, and folders of this machine."""
    for entry in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ArtifactError: If the file is absent, truncated or no valid ONNX, or keeps weights outside its own folder.
    """
    if not path.is_file():
        raise ArtifactError(f"no ONNX file '{path}'")
    model = check_external(path)
    try:
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    # damaged bytes make the parser and the checker fail in any way they like
    except Exception as error:
        raise _not_onnx(path, error) from error
    return model


def open_session(
    path: Path, *, threads: int = 0, device: str = "cpu", lean: bool = False
) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime, every graph optimisation on.

    Args:
        path: The file.
        threads: Threads inside one operator; 0 leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda".
        lean: Spend time to save memory: free every tensor as soon as its last reader has run.

    Raises:
        ArtifactError: If the file is absent or ONNX Runtime can't load it.
        MissingExtraError: If this build of ONNX Runtime has no such device.
    """
    provider = PROVIDERS.get(device, device)
    if provider not in onnxruntime.get_available_providers():
        raise MissingExtraError(
            f"this ONNX Runtime has no {provider}, found {', '.join(onnxruntime.get_available_providers())}",
            hint="use device cpu, or install a build with that provider",
        )
    if not path.is_file():
        raise ArtifactError(f"no ONNX file '{path}'")
    try:
        return onnxruntime.InferenceSession(str(path), session_options(threads, lean=lean), providers=[provider])
    # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
    except Exception as error:
        raise _not_onnx(path, error) from error


def session_options(threads: int, *, lean: bool) -> onnxruntime.SessionOptions:
    """Options of a session: every graph optimisation on; ``lean`` as in ``open_session``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if lean:
        # the default order runs a graph's many small outputs last, which keeps every activation alive
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def _not_onnx(path: Path, error: Exception) -> ArtifactError:
    found = " ".join(str(error).split())[:160] or type(error).__name__
    return ArtifactError(f"'{path.name}' is no ONNX network that runs here: {found}", hint="write or fetch it again")


def float_initializers(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the float32 initialisers of a graph as numpy arrays, by name."""
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
