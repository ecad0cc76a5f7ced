"""What a network is taught: its loss, who trains against it, in which phases, and what it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

Batch = Mapping[str, torch.Tensor]  # "image": (N, C, H, W) after the input spec; "target": (N, C', H, W)
Outputs = Sequence[torch.Tensor]  # raw outputs of a network, the one that ships first
Losses = dict[str, torch.Tensor]  # scalars by name; "loss" is the one that is minimised
Cast = Mapping[str, Callable[..., Any]]  # every player's forward by name; ours is "network"
LossOf = Callable[[Outputs, Batch], Losses]


class Subject(Protocol):
    """What a network's own ``teach`` may ask of its task."""

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Loss against the labels."""

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Turn a raw output into the task's picture."""


@dataclass(frozen=True)
class Rival:
    """A network that is trained beside ours on the same batches, each of its steps after ours: half of a GAN.

    Args:
        build: Makes it, with weights from torch's global generator.
        loss: What the rival minimises, given everyone's forward, our raw outputs without gradient and the batch.
        pressure: What our loss gets on top, given everyone's forward, our raw outputs and the batch; "loss" is added
            to ours. No rival learns from it.
        settings: What it is, in plain JSON, for the stage's key and the manifest.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[Cast, Outputs, Batch], Losses]
    pressure: Callable[[Cast, Outputs, Batch], Losses]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Phase:
    """A part of one training: what of the network runs and learns in it.

    Args:
        name: For the log and the history.
        share: Of all steps; the shares of a lesson's phases sum to 1.
        enter: Makes the network ready for the phase: which parts run, which parameters have ``requires_grad``.
            Called at its first step, and again when a run is resumed within it. The last phase leaves it whole.
    """

    name: str
    share: float
    enter: Callable[[nn.Module], None]


def photo_alone(batch: Batch) -> tuple[torch.Tensor, ...]:
    """What most networks are given of a batch: its pictures."""
    return (batch["image"],)


@dataclass(frozen=True)
class Lesson:
    """How a network learns from labels.

    Args:
        loss: Of its raw outputs and the batch.
        rivals: Who trains beside it, by name; none of them is called "network".
        phases: Parts of the training, in order; none: one part.
        feed: What the network's forward is given of a batch.
        prepare: Called once with the new network before it learns, to load weights into parts of it.
        ema: Decay of the running mean of the weights that is kept, where the user names none; 0 for none.
        aid: Learns with the network by the same loss, and is thrown away after (adaptors between feature maps).
        beside: What is open while it learns, given the module that moves (taps on its feature maps).
        patterns: Augmentations of each picture, one an epoch in turn; 0: a new one in every epoch.
        settings: What it is, in plain JSON, for the stage's key and the manifest.
    """

    loss: LossOf
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    feed: Callable[[Batch], tuple[torch.Tensor, ...]] = photo_alone
    prepare: Callable[[nn.Module], None] | None = None
    ema: float = 0.0
    aid: nn.Module | None = None
    beside: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext
    patterns: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def phase_at(self, step: int, steps: int) -> Phase | None:
        """Return the phase that step ``step`` (from 0) of ``steps`` lies in, None where there are no phases."""
        reached = 0.0
        for phase in self.phases:
            reached += phase.share
            if step < round(reached * steps):
                return phase
        return self.phases[-1] if self.phases else None
