"""Weights moved from an ONNX file into a torch module: layers paired by name, else by the order in which they run."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.errors import ArtifactError
from compress.kit.ship.filelayers import HEAVY, FileLayer, file_layers, named_constants, shape_text
from compress.kit.ship.modulelayers import ModuleLayer, module_layers

Array = NDArray[np.float32]
L = TypeVar("L")
_ROWS = 12  # of a table in a message


@dataclass(frozen=True)
class Misfit:
    """What does not fit: a layer of ours, what it wants and what the file has in its place ("-" for nothing)."""

    layer: str
    wanted: str
    found: str


def transplant(module: nn.Module, model: onnx.ModelProto, image: Tensor) -> nn.Module:
    """Return a copy of a module, in eval mode, with the weights of an ONNX graph of the same network.

    Layers are paired by the names of their weights where the file kept those, all others in the order in which they
    run. Batch norm that the file has folded into a convolution becomes the identity, with the convolution's new bias
    as its shift where ours has no other place for it. Two layers of one shape can change places unseen: run both
    afterwards (``moved.proven`` does).

    Args:
        module: The network; stays as it is.
        model: The graph, its weights inside.
        image: (N, C, H, W), what the module is run on once to learn the order of its layers.

    Raises:
        ArtifactError: If layers differ in number or form; the message has a table of them.
    """
    twin = copy.deepcopy(module).eval()
    ours, theirs = module_layers(twin, image), file_layers(model)
    pairs, misfits = _pairs(ours, theirs)
    if misfits:
        raise _refusal(twin, misfits)
    with torch.no_grad():
        misfits = _fill(ours, pairs) + _by_name(ours, named_constants(model))
    if misfits:
        raise _refusal(twin, misfits)
    return twin


def table(head: str, misfits: Sequence[Misfit], noun: str = "layer") -> str:
    """Lay out what does not fit, a layer a line, the first ``_ROWS`` of them."""
    rows = [(noun, "wanted", "found"), *((m.layer, m.wanted, m.found) for m in misfits[:_ROWS])]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    more = [f"  and {len(misfits) - _ROWS} more"] if len(misfits) > _ROWS else []
    return "\n".join([head, *lines, *more])


def _refusal(module: nn.Module, misfits: Sequence[Misfit]) -> ArtifactError:
    head = f"the file's layers are not those of {type(module).__name__}, {len(misfits)} differ:"
    return ArtifactError(table(head, misfits), hint="check the network's name and its options (--width and the like)")


Pairs = list[tuple[ModuleLayer, FileLayer]]


def _pairs(ours: Sequence[ModuleLayer], theirs: Sequence[FileLayer]) -> tuple[Pairs, list[Misfit]]:
    named = _named(ours, theirs)
    taken = {id(layer) for pair in named for layer in pair}
    pairs, misfits = list(named), [m for pair in named if (m := _misfit(*pair))]
    for kinds in (HEAVY, ("BatchNorm",), ("InstanceNorm",)):
        mine = [layer for layer in ours if layer.kind in kinds and id(layer) not in taken]
        found = [layer for layer in theirs if layer.kind in kinds and id(layer) not in taken]
        if kinds != HEAVY and len(found) != len(mine):
            found = [layer for layer in found if not layer.trivial]
        if kinds == ("BatchNorm",) and len(found) != len(mine):
            mine, found, wrong = _behind(mine, found, pairs)
            misfits += wrong
        further, wrong = _in_order(mine, found)
        pairs, misfits = pairs + further, misfits + wrong
    return pairs, misfits


def _named(ours: Sequence[ModuleLayer], theirs: Sequence[FileLayer]) -> Pairs:
    """Pair layers whose weights carry our names, where as many layers read them as ours runs that one.

    Exporters let equal weights share one initializer, which then carries the name of only one of its layers.
    """
    calls: dict[str, list[ModuleLayer]] = {}
    for layer in ours:
        calls.setdefault(f"{layer.path}.weight", []).append(layer)
    readers: dict[str, list[FileLayer]] = {}
    for found in theirs:
        readers.setdefault(found.name, []).append(found)
    starts = Counter(name[: -len(key)] for name in readers for key in calls if name.endswith(key))
    prefix = max(starts, key=lambda start: (starts[start], -len(start)), default="")
    return [
        pair
        for key, mine in calls.items()
        if len(found_here := readers.get(prefix + key, [])) == len(mine)
        for pair in zip(mine, found_here, strict=True)
    ]


def _behind(
    mine: Sequence[ModuleLayer], found: Sequence[FileLayer], pairs: Pairs
) -> tuple[list[ModuleLayer], list[FileLayer], list[Misfit]]:
    """Find which of our norms the file kept: by the layer each reads, and in order those that read no layer."""
    place = {theirs.index: layer.path for layer, theirs in pairs}
    behind = {layer.source: layer for layer in mine if layer.source}
    alone = iter(layer for layer in mine if not layer.source)
    kept, lost = [], []
    for layer in found:
        ours = behind.get(place.get(layer.source, "")) if layer.source in place else next(alone, None)
        if ours is None:
            lost.append(Misfit("-", "no norm here", f"{layer.form} {layer.label}"))
        else:
            kept.append((ours, layer))
    return [ours for ours, _ in kept], [layer for _, layer in kept], lost


def _in_order(mine: Sequence[ModuleLayer], found: Sequence[FileLayer]) -> tuple[Pairs, list[Misfit]]:
    if len(mine) != len(found):  # a layer that runs twice may be stored, or run, once in the file
        mine, found = _once(mine, lambda layer: layer.path), _once(found, lambda layer: layer.name)
    if len(mine) == len(found):
        pairs = list(zip(mine, found, strict=True))
        return pairs, [m for pair in pairs if (m := _misfit(*pair))]
    return [], _unlike(mine, found)


def _unlike(mine: Sequence[ModuleLayer], found: Sequence[FileLayer]) -> list[Misfit]:
    """Lay both lists side by side so that as much as can be agrees, and return what does not."""
    from difflib import SequenceMatcher

    left, right = [layer.form for layer in mine], [layer.form for layer in found]
    rows: list[Misfit] = []
    for what, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        for step in range(max(b - a, d - c)):
            layer = mine[a + step] if a + step < b else None
            other = found[c + step] if c + step < d else None
            rows.append(Misfit(layer.path if layer else "-", layer.form if layer else "-",
                               f"{other.form} {other.label}".strip() if other else "-"))  # fmt: skip
    return rows


def _once(layers: Sequence[L], key: Callable[[L], str]) -> list[L]:
    return list({key(layer): layer for layer in layers}.values())


def _misfit(layer: ModuleLayer, found: FileLayer) -> Misfit | None:
    if layer.form == found.form:
        return None
    return Misfit(layer.path, layer.form, f"{found.form} {found.label}".strip())


def _fill(ours: Sequence[ModuleLayer], pairs: Pairs) -> list[Misfit]:
    """Write the file's numbers into the layers; returns those that had no place to go."""
    found: dict[str, FileLayer] = {}
    misfits = []
    for layer, theirs in pairs:
        before = found.setdefault(layer.path, theirs)
        if not _equal(before, theirs):
            misfits.append(Misfit(layer.path, "one layer that runs twice", f"two: {before.label}, {theirs.label}"))
    spare: dict[str, Array] = {}  # biases of layers of ours that have none, by path
    for layer in _once(ours, lambda layer: layer.path):
        if layer.kind in HEAVY and layer.path in found:
            _fill_heavy(layer, found[layer.path], spare)
    for layer in _once(ours, lambda layer: layer.path):
        theirs_or_none = found.get(layer.path)
        if layer.kind == "BatchNorm":
            misfits += _fill_batch_norm(layer, theirs_or_none, spare.pop(layer.source, None))
            if theirs_or_none is None and layer.source not in found:
                misfits.append(Misfit(layer.path, layer.form, "-, nor a layer before it to be folded into"))
        elif layer.kind == "InstanceNorm" and theirs_or_none is not None:
            spare.pop(layer.source, None)  # it would be subtracted again
            misfits += _fill_instance_norm(layer, theirs_or_none)
    return misfits + [
        Misfit(path, "no bias", f"one of up to {np.abs(bias).max():.3g}") for path, bias in spare.items() if bias.any()
    ]


def _equal(one: FileLayer, other: FileLayer) -> bool:
    pairs = zip((one.weight, one.bias, one.mean, one.variance), (other.weight, other.bias, other.mean, other.variance),
                strict=True)  # fmt: skip
    return all((a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
               for a, b in pairs)  # fmt: skip


def _put(tensor: Tensor, values: Array | float) -> None:
    tensor.copy_(torch.as_tensor(values, dtype=tensor.dtype))


def _fill_heavy(layer: ModuleLayer, theirs: FileLayer, spare: dict[str, Array]) -> None:
    part: Any = layer.module
    _put(part.weight, theirs.weight)
    if part.bias is not None:
        _put(part.bias, 0.0 if theirs.bias is None else theirs.bias)
    elif theirs.bias is not None:
        spare[layer.path] = theirs.bias


def _fill_batch_norm(layer: ModuleLayer, theirs: FileLayer | None, shift: Array | None) -> list[Misfit]:
    """Write a norm, or the identity where the file has folded it; shift: what the layer before it has no place for.

    Without scale and shift of its own the identity is a variance of 1 - eps and a mean of -shift.
    """
    part: Any = layer.module
    shift = np.zeros(part.num_features, np.float32) if shift is None else shift
    if theirs is None:
        _put(part.running_mean, 0.0 if part.affine else -shift)
        _put(part.running_var, 1.0 if part.affine else 1.0 - part.eps)
        if part.affine:
            _put(part.weight, float(np.sqrt(1.0 + part.eps)))
            _put(part.bias, shift)
        return []
    assert theirs.mean is not None and theirs.variance is not None and theirs.bias is not None, theirs.label
    _put(part.running_mean, theirs.mean - shift)
    _put(part.running_var, theirs.variance)
    # what the norm makes of it with an eps of its own
    variance = theirs.variance.astype(np.float64)
    scale = theirs.weight * np.sqrt((variance + part.eps) / (variance + theirs.eps))
    if part.affine:
        _put(part.weight, scale.astype(np.float32))
        _put(part.bias, theirs.bias)
    elif np.abs(scale - 1).max() > 1e-4 or theirs.bias.any():
        return [Misfit(layer.path, f"{layer.form} without scale and shift", f"one with both, {theirs.label}")]
    return []


def _fill_instance_norm(layer: ModuleLayer, theirs: FileLayer) -> list[Misfit]:
    part: Any = layer.module
    misfits = []
    shift = np.zeros_like(theirs.weight) if theirs.bias is None else theirs.bias
    for name, values, usual in (("weight", theirs.weight, 1.0), ("bias", shift, 0.0)):
        if getattr(part, name, None) is not None:
            _put(getattr(part, name), values)
        elif (values != usual).any():
            misfits.append(Misfit(layer.path, f"{layer.form} without {name}", f"a {name} {theirs.label}"))
    return misfits


def _by_name(ours: Sequence[ModuleLayer], constants: Mapping[str, NDArray[Any]]) -> list[Misfit]:
    """Write parameters of other modules that ran where the file has them under our names."""
    misfits = []
    for layer in _once([layer for layer in ours if not layer.kind], lambda layer: layer.path):
        for name, parameter in layer.module.named_parameters(layer.path, recurse=False):
            key = next((k for k in sorted(constants, key=len) if k == name or k.endswith(f".{name}")), "")
            values = constants.get(key)
            if values is None or values.shape != tuple(parameter.shape):
                found = "-" if values is None else shape_text(values.shape)
                misfits.append(Misfit(name, shape_text(parameter.shape), found))
            else:
                _put(parameter, values.astype(np.float32))
    return misfits
