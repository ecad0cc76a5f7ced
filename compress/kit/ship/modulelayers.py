"""The layers with weights of a torch module, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.kit.ship.filelayers import form_of

# every class of them shares this base, which torch does not name openly
_CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class ModuleLayer:
    """One call of a layer.

    Args:
        path: Where it is in the module.
        module: The layer.
        kind: "Conv", "ConvTranspose", "Linear", "BatchNorm", "InstanceNorm", or "" for other modules with parameters.
        form: What a layer of a file must share with it, for people.
        source: Path of the layer whose output it is given, "" where that is none.
    """

    path: str
    module: nn.Module
    kind: str
    form: str
    source: str


def module_layers(module: nn.Module, image: Tensor) -> list[ModuleLayer]:
    """Run a module once and list the calls of parts that hold parameters themselves, in order."""
    calls: list[ModuleLayer] = []
    made: dict[int, tuple[str, Any]] = {}  # by id of a tensor: the layer it came out of, and the tensor, to keep its id
    paths: dict[int, str] = {}
    for path, part in module.named_modules():
        paths.setdefault(id(part), path)

    def note(part: nn.Module, given: Any, output: Any) -> None:
        path = paths[id(part)]
        source = made.get(id(given[0]), ("", None))[0] if given else ""
        kind = _kind(part)
        calls.append(ModuleLayer(path, part, kind, _form(part, kind), source))
        if isinstance(output, Tensor):
            made[id(output)] = (path, output)

    holding = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    norms = [part for part in module.modules() if isinstance(part, _BATCH_NORMS) and part not in holding]
    handles = [part.register_forward_hook(note) for part in (*holding, *norms)]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _kind(part: nn.Module) -> str:
    if isinstance(part, _CONVS):
        return "Conv"
    if isinstance(part, _TRANSPOSED):
        return "ConvTranspose"
    if isinstance(part, nn.Linear):
        return "Linear"
    if isinstance(part, _BATCH_NORMS):
        return "BatchNorm"
    flat = all(parameter.ndim == 1 for parameter in part.parameters(recurse=False))
    return "InstanceNorm" if flat and type(part).__name__.startswith("InstanceNorm") else ""


def _form(part: Any, kind: str) -> str:
    if kind in ("Conv", "ConvTranspose"):
        return form_of(kind, part.weight.shape, stride=part.stride, dilation=part.dilation, groups=part.groups)
    if kind == "BatchNorm":
        return form_of(kind, (part.num_features,))
    first = next(part.parameters(recurse=False))
    return form_of(kind or type(part).__name__, first.shape)
