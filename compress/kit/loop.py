"""The training loop: seeded, resumable bit for bit, several optimizers, any device count (Lightning Fabric)."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.core.console import Advance, log
from compress.core.errors import ArtifactError, DivergedError
from compress.core.whole import written_whole

Batch = dict[str, torch.Tensor]
LossOf = Callable[[Batch], Mapping[str, torch.Tensor]]
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over ``steps`` optimizer steps.

    "step" is the thesis's: the full rate for the first third (100 of 300 epochs), a tenth of it after (section 3.2).
    "cosine" warms up over the first 5 % and decays to 1 % (Loshchilov & Hutter 2017, section 3).
    """

    steps: int
    rate: float
    shape: str = "cosine"

    def at(self, step: int) -> float:
        """Learning rate of that step, counted from 0."""
        if self.shape == "step":
            return self.rate if step < self.steps / 3 else self.rate / 10
        warm = max(1, round(0.05 * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        progress = (step - warm) / max(1, self.steps - warm)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Player:
    """A module with the optimizer that moves it, its loss and its schedule; a GAN has two players.

    ``aid`` is moved by the same optimizer and loss and kept in checkpoints, but is no part of the result.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: LossOf
    schedule: Schedule
    aid: nn.Module | None = None


@dataclass
class Loop:
    """Train ``players`` in turn on each batch.

    Args:
        players: By name, in the order they move. The modules are trained in place.
        fabric: Where it runs; already launched.
        folder: Where the checkpoint lies; ``None`` keeps none.
        checkpoint_every: Steps between checkpoints.
        ema: Decay of the running mean of the weights (Polyak), 0 for none; the first player's is kept.
        seed: Of what the modules draw themselves (dropout), anew at every step, so that resuming needs no state.
    """

    players: dict[str, Player]
    fabric: Any
    folder: Path | None = None
    checkpoint_every: int = 200
    ema: float = 0.0
    seed: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = next(iter(self.players.values()))
        self._mean = copy.deepcopy(self._first.module) if self.ema else None
        self._wrapped: dict[str, Any] = {}

    @property
    def result(self) -> nn.Module:
        """The first player's module, or the running mean of it."""
        return self._first.module if self._mean is None else self._mean

    def resume(self) -> bool:
        """Take up the checkpoint if there is one; returns whether there was."""
        path = self.folder / CHECKPOINT if self.folder else None
        if path is None or not path.is_file():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise ArtifactError(
                f"checkpoint {path} can't be read: {error}", hint="start over without --resume"
            ) from error
        for name, player in self.players.items():
            player.module.load_state_dict(state["modules"][name])
            player.optimizer.load_state_dict(state["optimizers"][name])
            if player.aid is not None:
                player.aid.load_state_dict(state["aids"][name])
        if self._mean is not None:
            self._mean.load_state_dict(state["mean"])
        self.step, self.history, self.validations = state["step"], state["history"], state["validations"]
        return True

    def run(self, batches: Iterable[Batch], advance: Advance, record: Callable[[int, dict[str, float]], None]) -> None:
        """Train on every batch of ``batches``, which starts at ``self.step``.

        Args:
            batches: Ready-made batches, this rank's slice of each.
            advance: Called after every step.
            record: Called after every step with the step's number and its losses.

        Raises:
            DivergedError: At the first loss that is not finite; the last checkpoint stays.
        """
        self._set_up()
        for batch in batches:
            torch.manual_seed(self._draw())
            losses = self._move({key: self.fabric.to_device(value) for key, value in batch.items()})
            self.step += 1
            self.history.append({"step": self.step, **losses})
            record(self.step, losses)
            advance(f"loss {losses['loss']:.4f}")
            if self.folder and self.step % self.checkpoint_every == 0:
                self.save()

    def _draw(self) -> int:
        key = [self.seed % 2**64, self.step, self.fabric.global_rank]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all (rank 0)."""
        if self.folder is None or not self.fabric.is_global_zero:
            return
        state = {
            "step": self.step,
            "history": self.history,
            "validations": self.validations,
            "modules": {name: player.module.state_dict() for name, player in self.players.items()},
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "aids": {name: player.aid.state_dict() for name, player in self.players.items() if player.aid},
            "mean": None if self._mean is None else self._mean.state_dict(),
        }
        # through a stream of ours: a full disk is then an OSError, which written_whole tells in one line
        with written_whole(self.folder / CHECKPOINT) as temporary, temporary.open("wb") as stream:
            torch.save(state, stream)

    def _set_up(self) -> None:
        if self._wrapped:
            return
        for name, player in self.players.items():
            module, optimizer = self.fabric.setup(player.module, player.optimizer)
            module.train()
            self._wrapped[name] = (module, optimizer)

    def forward(self, name: str, *inputs: torch.Tensor) -> Any:
        """Run a player's module as set up (autocast, DDP).

        Not through Fabric's own wrapper: that forbids a gradient inside a loss, which gradient penalties take.
        """
        with self.fabric.autocast():
            return self._wrapped[name][0]._forward_module(*inputs)

    def _move(self, batch: Batch) -> dict[str, float]:
        told: dict[str, float] = {}
        for name, player in self.players.items():
            _, optimizer = self._wrapped[name]
            for group in player.optimizer.param_groups:
                group["lr"] = player.schedule.at(self.step)
            optimizer.zero_grad(set_to_none=True)
            losses = player.loss(batch)
            prefix = "" if player is self._first else f"{name}/"
            values = {prefix + key: self._mean_over_ranks(value) for key, value in losses.items()}
            self._check(values)
            self.fabric.backward(losses["loss"])
            self._share(player.aid)
            optimizer.step()
            told |= values
        self._follow()
        return told

    def _share(self, aid: nn.Module | None) -> None:
        """Average an aid's gradients over ranks, as DDP does for the modules it wraps."""
        if aid is None or self.fabric.world_size == 1:
            return
        for parameter in aid.parameters():
            parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")

    def _mean_over_ranks(self, value: torch.Tensor) -> float:
        value = value.detach().float()
        return float(self.fabric.all_reduce(value, reduce_op="mean") if self.fabric.world_size > 1 else value)

    def _check(self, values: Mapping[str, float]) -> None:
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        kept = self.step // self.checkpoint_every * self.checkpoint_every if self.folder else 0
        raise DivergedError(
            f"training diverged at step {self.step + 1}: {', '.join(bad)}"
            + (f"; the checkpoint of step {kept} is kept in {self.folder}" if kept else ""),
            hint="lower --lr, or use --precision 32",
        )

    def _follow(self) -> None:
        if self._mean is None:
            return
        with torch.no_grad():
            # early steps follow faster, as in tf.train.ExponentialMovingAverage's num_updates
            decay = min(self.ema, (1 + self.step) / (10 + self.step))
            for mean, now in zip(self._mean.parameters(), self._first.module.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for held, current in zip(self._mean.buffers(), self._first.module.buffers(), strict=True):
                held.copy_(current)


def make_fabric(*, device: str, devices: int, precision: str, alone: bool = True) -> Any:
    """Launch Lightning Fabric: one process, or ``devices`` of them with gradients averaged (DDP).

    Args:
        device: "auto", "cpu" or "cuda".
        devices: Processes or cards; under torchrun the world it set up is used.
        precision: "32" or "bf16".
        alone: Whether there is one player, all of whose parameters get a gradient at every step.
    """
    import logging
    import warnings

    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    world = processes(devices)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    fabric = Fabric(
        accelerator=device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"),
        devices=here,
        num_nodes=world // here,
        strategy="auto" if world == 1 else "ddp" if alone else "ddp_find_unused_parameters_true",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    if fabric.world_size > 1:
        log.info("rank %d of %d on %s", fabric.global_rank, fabric.world_size, fabric.device)
    return fabric


def processes(devices: int) -> int:
    """Processes that train together: as many as torchrun started, over all hosts, or ``devices``."""
    return int(os.environ.get("WORLD_SIZE", devices))


def best_precision(wanted: str, device: str) -> str:
    """Resolve "auto": bf16 where the hardware multiplies it (a CPU flag, or a card of compute 8.0), else float32."""
    from compress.core.machine import cpu_flags

    if wanted != "auto":
        return wanted
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()) else "32"
