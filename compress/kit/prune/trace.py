"""Which channels of a network go together: torch-pruning's DepGraph (Fang et al., CVPR 2023), read into plain records.

Only the coupling is taken from there. Nothing is cut by its graph, whose own bookkeeping changes as it cuts.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from compress.core.errors import ArtifactError
from compress.core.machine import require
from compress.kit.nets.pix2pixhd import InstanceNorm
from compress.kit.prune.widths import CONVOLUTIONS, channels_of, depthwise, per_channel, sized

# operations that change which channel is which, or mix them without a layer: what reaches them keeps its width
_MOVING = ("pixel", "shuffle", "permute", "transpose", "roll", "flip", "mm", "mv", "gather", "scatter", "index",
           "strided", "unfold", "im2col", "col2im", "sort", "topk", "cumsum", "linalg", "norm", "diag")  # fmt: skip
_REDUCING = ("mean", "sum", "max", "min", "amax", "amin", "var", "std", "prod", "logsumexp")
_PAIRWISE = ("maxpool", "max_pool", "maximum", "minimum")


@dataclass(frozen=True)
class Item:
    """A layer that loses channels with others: ``index[k]`` of its outputs or inputs goes with ``root[k]``."""

    path: str
    side: Literal["out", "in"]
    index: tuple[int, ...]
    root: tuple[int, ...]


@dataclass(frozen=True)
class Coupled:
    """Channels that can only go together, over all layers that make, norm, filter or read them.

    Args:
        root: Path of the layer whose outputs they are counted by.
        channels: How many.
        items: Every layer, the root first.
        groups: They must go evenly from so many equal parts: grouped convolutions are among the layers.
        why: Why they have to stay, "" where they don't.
    """

    root: str
    channels: int
    items: tuple[Item, ...]
    groups: int = 1
    why: str = ""

    @property
    def makers(self) -> tuple[Item, ...]:
        """The layers whose outputs they are: convolutions, linear ones, norms."""
        return tuple(item for item in self.items if item.side == "out")


def couple(module: nn.Module, example: Tensor, exclude: Sequence[str] = ()) -> list[Coupled]:
    """Find the channels of ``module`` that go together, those that have to stay included; the module stays as it is.

    Outputs stay where they are the picture that ships, as wide as it, or read by no layer. Inputs are no channels of a
    layer. Layers that are frozen while others learn stay, and so does what they read.

    Args:
        module: Any network of convolutions, norms and linear layers; what it returns is a tensor or some.
        example: Images (N, C, H, W) it runs on.
        exclude: Paths of parts whose outputs keep their width.

    Raises:
        MissingExtraError: If torch-pruning is not here.
        ArtifactError: If its forward can't be followed.
    """
    require("prune")
    graph, outputs = _graph(module, example)
    names = {part: path for path, part in graph.model.net.named_modules()}
    frozen = _frozen(module)
    entry = graph.model.entry
    groups = [group for group in _groups(graph) if group[0].dep.target.module is not entry]
    return [_read(module, graph, group, names, outputs, frozen, exclude) for group in groups]


class _Fed(nn.Module):
    """A network behind a layer that stands for its picture, whose channels would otherwise be none of any layer."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net  # before the entry: roots are sought in this order
        self.entry = nn.Conv2d(channels, channels, 1)

    def forward(self, image: Tensor) -> Any:
        return self.net(self.entry(image))


def _graph(module: nn.Module, example: Tensor) -> tuple[Any, list[tuple[Any, bool]]]:
    """Trace a copy; returns the graph and its output nodes, each with whether it must keep its width."""
    import torch_pruning

    twin = _Fed(stand_in(module), example.shape[1])
    kept: list[bool] = []

    def mark(out: Any) -> list[Tensor]:
        tensors = [out] if isinstance(out, Tensor) else [tensor for tensor in out if isinstance(tensor, Tensor)]
        first = tensors[0]
        kept.extend(at == 0 or tensor.shape[1] == first.shape[1] for at, tensor in enumerate(tensors))
        return [tensor * 1.0 for tensor in tensors]  # an operation of its own marks the end of each

    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                twin, example.detach().float(), forward_fn=lambda net, image: net(image), output_transform=mark,
                unwrapped_parameters=[], customized_pruners={}, ignored_layers=[], ignored_params=[], verbose=False,
            )  # fmt: skip
    # a forward may defy tracing in any way
    except (RuntimeError, AttributeError, TypeError, KeyError, IndexError, AssertionError, RecursionError) as error:
        raise ArtifactError(
            f"{type(module).__name__} can't be followed for pruning: {type(error).__name__}: {error}",
            hint="its forward must take one image tensor and return tensors",
        ) from error
    ends = [node for part, node in graph.module2node.items() if isinstance(part, graph.ops._OutputOp)]
    assert len(ends) == len(kept), (len(ends), len(kept))
    return graph, list(zip(ends, kept, strict=True))


def stand_in(module: nn.Module) -> nn.Module:
    """Copy a module for tracing: everything differentiable, nothing in place, instance norms and PReLU as batch norms.

    torch computes instance norms as batch norms of reshaped maps, and reshapes slopes: no tracer sees through either.
    """
    twin = copy.deepcopy(module).float().cpu().eval().requires_grad_(True)
    for path, part in list(twin.named_modules()):
        if getattr(part, "inplace", False):
            part.inplace = False
        if isinstance(part, InstanceNorm | nn.InstanceNorm2d) or (isinstance(part, nn.PReLU) and per_channel(part)):
            twin.set_submodule(path, nn.BatchNorm2d(channels_of(part)).eval())
        elif isinstance(part, nn.PReLU):
            twin.set_submodule(path, nn.LeakyReLU())
    return twin


def _frozen(module: nn.Module) -> frozenset[str]:
    """Paths of layers that don't learn, in a network of which some part does."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return frozenset()
    still = [(path, list(part.parameters(recurse=False))) for path, part in module.named_modules()]
    return frozenset(path for path, own in still if own and not any(parameter.requires_grad for parameter in own))


def _groups(graph: Any) -> Iterator[Any]:
    """Every group once, roots in the order of the layers."""
    roots = [part for part in graph.model.modules() if part in graph.module2node]
    rank = {part: at for at, part in enumerate(roots)}
    graph.module2node = dict(sorted(graph.module2node.items(), key=lambda pair: rank.get(pair[0], len(rank))))
    yield from graph.get_all_groups(ignored_layers=[], root_module_types=(*CONVOLUTIONS, nn.Linear))


def _read(
    module: nn.Module, graph: Any, group: Any, names: dict[Any, str], outputs: Sequence[tuple[Any, bool]],
    frozen: frozenset[str], exclude: Sequence[str],
) -> Coupled:  # fmt: skip
    layers = dict(module.named_modules())
    items: dict[tuple[str, str], Item] = {}
    reasons: list[str] = []
    nodes = {entry.dep.target for entry in group}
    for entry in group:
        if entry.dep.target.module is graph.model.entry:
            reasons.append("it goes with the picture")
            continue
        path = names.get(entry.dep.target.module)
        layer = layers.get(path) if path is not None else None
        if layer is None or not sized(layer):
            reasons.append(_opaque(entry.dep.target, path))
            continue
        made = per_channel(layer) or graph.is_out_channel_pruning_fn(entry.dep.handler)
        side: Literal["out", "in"] = "out" if made else "in"
        key = (cast("str", path), side)
        items.setdefault(key, Item(*key, tuple(entry.idxs), tuple(entry.root_idxs)))
    whole = tuple(items.values())
    channels = len(whole[0].index)
    groups, uneven = _even(layers, whole, channels)
    reads = any(item.side == "in" for item in whole)
    ends = [fixed or not reads for node, fixed in outputs if node in nodes]
    reasons += [
        *(["it makes an output"] if any(ends) else []),
        *(f"{item.path} is excluded" for item in whole if item.side == "out" and _within(item.path, exclude)),
        *(f"{item.path} is frozen" for item in whole if item.path in frozen),
        *(f"{item.path} has fewer channels" for item in whole if not _fits(layers[item.path], item)),
        uneven,
    ]
    return Coupled(whole[0].path, channels, whole, groups, next(filter(None, reasons), ""))


def _within(path: str, parts: Sequence[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _fits(layer: nn.Module, item: Item) -> bool:
    if item.side == "out":
        return max(item.index) < channels_of(layer)
    return max(item.index) < cast("int", layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _even(layers: dict[str, nn.Module], items: Sequence[Item], channels: int) -> tuple[int, str]:
    """Into how many equal parts grouped convolutions cut the channels, and why that can't be kept ("" if it can)."""
    groups = 1
    for item in items:
        layer = layers[item.path]
        count = cast("int", getattr(layer, "groups", 1))
        if count == 1 or depthwise(layer):
            continue
        if item.index != item.root or len(item.index) != channels or not _fits(layer, item):
            return 1, f"{item.path} is grouped and reads it in part"
        if channels % count or channels == count or (groups > 1 and groups != count):
            return 1, f"{item.path} has {count} groups of its own"
        groups = count
    return groups, ""


def _opaque(node: Any, path: str | None) -> str:
    """Why channels that pass through a node without a width have to stay, "" if they needn't."""
    part, kind = node.module, type(node.module).__name__
    if isinstance(part, nn.Parameter):
        return "a parameter outside any layer has as many channels"
    if path is not None:
        return f"{path} is a {kind}"
    if kind == "_ReshapeOp":
        mapped = any(place is not None for dep in node.dependencies for place in dep.index_mapping)
        return "" if mapped else "it is reshaped"
    if kind == "_UnbindOp":
        return "it is taken apart"
    return _mixing(node.grad_fn) if kind == "_ElementWiseOp" else ""


def _mixing(grad_fn: Any) -> str:
    """Why channels that pass through an operation have to stay, "" if each of them stays what it is."""
    name = str(grad_fn.name()).lower()
    mixing = any(word in name for word in _MOVING) or _reduces(name, grad_fn)
    return f"an operation moves or mixes channels ({grad_fn.name()})" if mixing else ""


def _reduces(name: str, grad_fn: Any) -> bool:
    """Whether an operation sums or compares over the channels."""
    if not name.startswith(_REDUCING) or name.startswith(_PAIRWISE):
        return False
    saved = getattr(grad_fn, "_saved_dim", None)
    if saved is None:
        return True
    axes = [saved] if isinstance(saved, int) else list(saved)
    # torch shows -1 as 2**64 - 1; of (N, C, H, W) or (N, C)
    return any(axis in (1, 2**64 - 3, -3) for axis in axes)
