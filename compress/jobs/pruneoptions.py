"""Flags of pruning, without a framework: a command's help must not wait for torch."""

from dataclasses import dataclass
from typing import Literal

from compress.core.options import Making, Seen


@dataclass(frozen=True, kw_only=True)
class Pruning(Making, Seen):
    """How channels are taken out of a network."""

    model: str = ""
    """Id, id prefix or name of a network with torch weights; else the newest."""
    ratio: float | None = None
    """Share of the channels to take out, as torch-pruning's pruning_ratio; 0.5 when not given. Parameters and MACs fall
    about with its square: 0.5 leaves about a quarter."""
    macs: float | None = None
    """Instead of --ratio: the share of the MACs that may remain, like 0.25; the ratio is searched for."""
    importance: Literal["l2", "l1", "taylor", "bn", "random"] = "l2"
    """What a channel is worth: size of all weights that go with it (l2, l1), what they do to the loss on training
    photos (taylor), scale of its norms (bn), or chance."""
    scope: Literal["layer", "global"] = "layer"
    """layer: the same share of every layer. global: the least worthy channels of all layers."""
    round_to: int = 8
    """Layers keep a multiple of so many channels, which vector units like."""
    rounds: int = 1
    """Take them out in so many steps, what is left judged anew in each."""
    exclude: tuple[str, ...] = ()
    """Path of a part whose outputs keep their width, like stage1 or head, repeatable."""
    batches: int = 8
    """Batches of 4 training photos that --importance taylor looks at, in each round."""
    size: int | None = None
    """Pixels a side of these photos; the network's own when not given."""
    target: Literal["cpu", "none"] = "cpu"
    """Where it must be faster than its parent: cpu, both as ONNX timed in turns; none: nowhere, made for size."""
    force: bool = False
    """Keep a result that is not faster, marked as rejected."""
