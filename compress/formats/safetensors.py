"""safetensors: weights that rebuild a registered network in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.errors import ArtifactError, MissingExtraError, UsageError
from compress.core.networks import Network, find_network, is_reference
from compress.core.registry import Room, register
from compress.core.types import Artifact
from compress.core.whole import written_whole
from compress.formats.base import Format, Runner
from compress.kit.graph import load_state, read_checkpoint
from compress.kit.prune.widths import check_runs, reshape
from compress.kit.ship.runtime import Shipped

Precision = Literal["float32", "bf16"]


class TorchRunner:
    """Runs a copy of a module in PyTorch, in inference mode."""

    def __init__(
        self, module: nn.Module, *, threads: int = 0, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise MissingExtraError(f"device '{device}' is not here", hint="use device cpu")
        if precision not in ("float32", "bf16"):
            raise UsageError(f"precision is float32 or bf16, found '{precision}'")
        # channels last spares a reordering around every convolution
        own = copy.deepcopy(module).eval().to(torch.device(device))
        self._module = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._threads, self._bf16 = torch.device(device), threads, precision == "bf16"
        self.describe: dict[str, Any] = {
            "runtime": "torch",
            "version": torch.__version__,
            "threads": threads,
            "provider": device,
            "precision": precision,
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W) to the shipped picture (N, C', H', W'), float32."""
        before = torch.get_num_threads()
        # the number of threads is one setting of the whole process: give it back
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
                batch = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
                output: Tensor = self._module(batch.contiguous(memory_format=torch.channels_last))
            return cast("NDArray[np.float32]", output.float().contiguous().cpu().numpy())
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Free the module."""
        del self._module


class Safetensors(Format):
    """Weights by name, float32 or float16 on disk, with the registered network that takes them."""

    name = "safetensors"
    suffix = ".safetensors"

    def load(
        self,
        folder: Path,
        artifact: Artifact,
        *,
        threads: int = 0,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> Runner:
        """Rebuild the network with its task's activation; see ``Format.load``.

        ``precision`` "bf16" computes convolutions in bfloat16 (autocast); weights and pictures stay float32.
        """
        activate = _activation(artifact.task)
        module = Shipped(self.module(folder, artifact), activate)
        return TorchRunner(module, threads=threads, device=device, precision=precision)

    def module(self, folder: Path, artifact: Artifact, *, upcast: bool = True) -> nn.Module:
        """Rebuild the bare network in eval mode, on the CPU; one that was pruned as narrow as its manifest says.

        Args:
            folder: Where the artifact's files lie.
            artifact: Its manifest.
            upcast: Compute in float32 whatever the file stores; False keeps the file's floating type.

        Raises:
            ArtifactError: If the artifact has no registered network, or its widths or weights don't fit it.
        """
        if not artifact.network:
            raise ArtifactError(f"artifact '{artifact.name}' is a foreign file: no network rebuilds it")
        state = read_checkpoint(self.weights(folder, artifact))
        module = cast("nn.Module", _network(artifact).build(**artifact.network_options))
        if artifact.widths:
            reshape(module, artifact.widths)
            check_runs(module, artifact.input.channels)
        if not upcast:
            module.to(_float_type(state))
        load_state(module, state)
        return module.eval()

    def write(self, module: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``weights.safetensors`` into ``folder``; floating tensors become ``dtype``.

        The module stays as it is. Returns the file's path.

        Raises:
            ArtifactError: If a weight overflows ``dtype`` (float16 ends at 65504).
        """
        from safetensors.torch import save

        # a batch norm's step counter is read by no forward pass, and its name costs more bytes than a small bias
        kept = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
        state = {key: _stored(key, value, dtype) for key, value in kept.items()}
        path = folder / f"weights{self.suffix}"
        with written_whole(path) as scratch:
            scratch.write_bytes(save(state))  # its own writer hides a full disk in an error of its own
        return path


def _network(artifact: Artifact) -> Network:
    try:
        return find_network(artifact.network, artifact.task)
    except UsageError as error:
        if not is_reference(artifact.network):
            raise
        raise ArtifactError(
            f"artifact '{artifact.name}' is rebuilt by {artifact.network}, which is not to be had: {error.what}",
            hint=f"run where {artifact.network.partition(':')[0]} can be imported, or set PYTHONPATH to its folder",
        ) from error


def _stored(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    # a clone of its own: safetensors refuses tensors that share memory
    kept = value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).clone().contiguous()
    if value.is_floating_point() and bool((kept.isfinite().cpu() != value.isfinite().cpu()).any()):
        raise ArtifactError(f"'{key}' has values up to {float(value.abs().max()):g}, too large for {dtype}")
    return kept


def _float_type(state: dict[str, Tensor]) -> torch.dtype:
    return next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)


def _activation(task: str) -> Callable[[Tensor], Tensor]:
    room: Room[Any] = Room("compress.tasks", "task")
    return cast("Callable[[Tensor], Tensor]", room.get(task).activate)


register(__name__, Safetensors())
