"""Who moves in a training run, in turn, on each batch: the network, then whoever trains beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from compress.core.console import log
from compress.jobs.plan import Plan
from compress.kit.lesson import Batch, Cast, Lesson, Losses, Outputs, Phase, Rival
from compress.kit.loop import Loop, Player, Schedule
from compress.kit.parallel import synchronise

OURS = "network"


def make_players(module: nn.Module, lesson: Lesson, plan: Plan, fabric: Any) -> dict[str, Player]:
    """Build everyone, ours first; ``teach_them`` gives them their losses."""
    assert OURS not in lesson.rivals, f"a rival may not be called '{OURS}'"
    modules = {OURS: module, **{name: rival.build() for name, rival in lesson.rivals.items()}}
    # two networks that chase each other want less memory of where they were: Radford et al. 2016, section 4
    momentum = 0.9 if len(modules) == 1 else 0.5
    aids = {OURS: lesson.aid}
    return {name: _player(part, plan, fabric, momentum, aids.get(name)) for name, part in modules.items()}


def _player(module: nn.Module, plan: Plan, fabric: Any, momentum: float, aid: nn.Module | None) -> Player:
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if fabric.world_size > 1:
        module = synchronise(module)
    moved = [*module.parameters(), *(fabric.to_device(aid).parameters() if aid else ())]
    optimizer = torch.optim.Adam(moved, lr=plan.lr, betas=(momentum, 0.999), eps=1e-8)
    return Player(module, optimizer, _no_loss, Schedule(plan.steps, plan.lr, plan.schedule), aid)


def _no_loss(batch: Batch) -> Losses:
    raise AssertionError(f"the loss was never set; batch has {sorted(batch)}")


def teach_them(loop: Loop, lesson: Lesson, steps: int) -> None:
    """Give every player its loss. The rivals move after the network, on what it gave before it moved."""
    turn = _Turn(loop, lesson, steps)
    loop.players[OURS].loss = turn.ours
    for name, rival in lesson.rivals.items():
        loop.players[name].loss = partial(turn.theirs, name, rival)


@dataclass
class _Turn:
    """What happens on one batch."""

    loop: Loop
    lesson: Lesson
    steps: int
    given: list[torch.Tensor] = field(default_factory=list)
    phase: Phase | None = None

    def ours(self, batch: Batch) -> Losses:
        self._enter()
        outputs: Outputs = self.loop.forward(OURS, *self.lesson.feed(batch))
        losses = self.lesson.loss(outputs, batch)
        if not self.lesson.rivals:
            return losses
        self.given = [output.detach() for output in outputs]
        losses = {**losses, "labels": losses["loss"].detach()}
        with self._cast(OURS) as cast:
            for name, rival in self.lesson.rivals.items():
                added = rival.pressure(cast, outputs, batch)
                parts = {f"{name}_{key}": value for key, value in added.items() if key != "loss"}
                losses = {**losses, **parts, "loss": losses["loss"] + added["loss"]}
        return losses

    def theirs(self, name: str, rival: Rival, batch: Batch) -> Losses:
        with self._cast(name) as cast:
            return rival.loss(cast, self.given, batch)

    def _enter(self) -> None:
        phase = self.lesson.phase_at(self.loop.step, self.steps)
        if phase is None or phase is self.phase:
            return
        self.phase = phase
        log.info("phase %s from step %d", phase.name, self.loop.step)
        for module in {id(m): m for m in (self.loop.players[OURS].module, self.loop.result)}.values():
            phase.enter(module)

    @contextmanager
    def _cast(self, mover: str) -> Iterator[Cast]:
        """Everyone's forward; whoever does not move is frozen meanwhile, and runs without DDP's bookkeeping."""
        others = {name: player.module for name, player in self.loop.players.items() if name != mover}
        held = [(p, p.requires_grad) for module in others.values() for p in module.parameters()]
        for parameter, _ in held:
            parameter.requires_grad_(False)
        forward: dict[str, Callable[..., Any]] = {
            name: partial(_under, self.loop.fabric, module) for name, module in others.items()
        }
        yield forward | {mover: partial(self.loop.forward, mover)}
        for parameter, before in held:
            parameter.requires_grad_(before)


def _under(fabric: Any, module: nn.Module, *inputs: torch.Tensor) -> Any:
    with fabric.autocast():
        return module(*inputs)


def settings_of(lesson: Lesson) -> Mapping[str, Any]:
    """What decides a lesson's result, in plain JSON; empty for a plain loss."""
    rivals = {name: dict(rival.settings) for name, rival in lesson.rivals.items()}
    phases = [[phase.name, phase.share] for phase in lesson.phases]
    parts = {"lesson": dict(lesson.settings), "rivals": rivals, "phases": phases}
    return {key: value for key, value in parts.items() if value}
