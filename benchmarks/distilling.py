"""What distillation costs beside its bare parts: `python -m benchmarks.distilling [--quick]`.

Ways take turns of a few steps each, so that a slow minute of the machine falls on all: a bare torch loop of the
student; the teacher's forward with a bare step of the student; and our step, from batches that lie ready, as the bare
ones do. A fourth, our step with the teacher's answers kept on disk, stands beside the student's bare step alone. The
bare student learns from its labels as in plain training; with ``--same-loss`` by the recipe's terms, as ours does: the
difference is what the terms cost. Ratios are of medians, with bootstrapped intervals.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command lines do

import torch
from torch import Tensor, nn

from compress.core.console import set_up
from compress.core.machine import this_machine
from compress.core.networks import find_network
from compress.jobs.course import Course, Memory
from compress.jobs.fit import channels_last
from compress.kit.data.batches import Batches
from compress.kit.distill.recipe import read_recipe
from compress.kit.distill.view import View
from compress.kit.graph import fold_batch_norm
from compress.kit.intervals import Interval, speedup
from compress.kit.loop import Loop, Player, Schedule, best_precision, make_fabric
from compress.tasks import TASKS

LIMIT = 1.10  # of either ratio, issue 6
Batch = dict[str, Tensor]
Run = Callable[[Sequence[Batch]], None]


@dataclass(frozen=True)
class Case:
    """Two networks of one task at one size.

    Args:
        teacher: Of the teachers' room.
        student: Of the students'.
        size: Pixels a side.
        batch: Pictures a step.
        width: Cap of every channel count, None for none.
    """

    teacher: str = "u2net_big"
    student: str = "u2net_student"
    size: int = 128
    batch: int = 8
    width: int | None = None

    def build(self, name: str) -> nn.Module:
        """Build one of them, its weights a function of nothing but its name."""
        torch.manual_seed(0)
        module: nn.Module = find_network(name).build(width=self.width)
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distilling", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small networks at 64 px: shows that it runs")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each way, at least 5 for intervals")
    parser.add_argument("--turn", type=int, default=3, help="steps of a turn")
    parser.add_argument("--same-loss", action="store_true", help="the bare student learns by the recipe too")
    parser.add_argument("--profile", action="store_true", help="where our step spends its time, and nothing else")
    wish = parser.parse_args()
    set_up(quiet=True)
    case = Case(size=64, batch=4, width=16) if wish.quick else Case()
    machine = this_machine()
    print(f"{case.teacher} -> {case.student}, {case.size} px, batch {case.batch}, {machine.cpu}, {machine.cores} cores")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(case, Path(folder), wish.turn, same_loss=wish.same_loss)
        if wish.profile:
            print(bench.profile())
            return
        for name, ratio, spent in bench.measure(wish.rounds):
            print(f"{name}: {told(ratio)}; seconds a step {', '.join(f'{value:.4f}' for value in spent)}")


def told(ratio: Interval) -> str:
    """A ratio with its interval, and whether it holds the limit."""
    low = "" if ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    return f"{ratio.value:.3f}{low}, limit {LIMIT:.2f}: {'held' if ratio.value <= LIMIT else 'not held'}"


class Bench:
    """The ways of one case.

    Args:
        case: Which networks.
        folder: Where answers are kept.
        turn: Steps of a turn.
        same_loss: Whether the bare student learns by the recipe too, not from its labels alone.
    """

    def __init__(self, case: Case, folder: Path, turn: int, *, same_loss: bool = False) -> None:
        self.case, self.folder, self.same_loss = case, folder, same_loss
        self.task = TASKS.get(find_network(case.teacher).task)
        self.recipe = read_recipe(self.task.name, self.task.name)
        self.bf16 = best_precision("auto", "cpu") == "bf16"
        data = self.task.open(["builtin"], "train")
        batches = Batches(data, self.task.input, case.size, batch=case.batch, stop=turn, patterns=1)
        self.ready = list(islice(map(channels_last, batches), turn))
        self.slots = len(data)
        self.fingerprint = data.fingerprint

    def measure(self, rounds: int) -> list[tuple[str, Interval, tuple[float, float]]]:
        """Run all ways in turns; returns name, ratio and seconds a step (ours, theirs) of both comparisons."""
        with ExitStack() as stack:
            asked = stack.enter_context(self.ours(kept=False))
            kept = stack.enter_context(self.ours(kept=True))
            ways: dict[str, Run] = {
                "bare": self.bare(taught=False),
                "taught": self.bare(taught=True),
                "asked": asked,
                "kept": kept,
            }
            for _ in range(2):  # the first writes the answers that the others read
                for way in ways.values():
                    way(self.ready)
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for round_ in range(rounds):
                order = list(ways) if round_ % 2 else list(reversed(ways))
                for name in order:
                    start = time.perf_counter()
                    ways[name](self.ready)
                    seconds[name].append((time.perf_counter() - start) / len(self.ready))
        pairs = {
            "our step / (teacher's forward + bare step)": ("asked", "taught"),
            "our step with kept answers / bare step": ("kept", "bare"),
        }
        return [
            (name, speedup(seconds[mine], seconds[theirs]), (_median(seconds[mine]), _median(seconds[theirs])))
            for name, (mine, theirs) in pairs.items()
        ]

    def bare(self, *, taught: bool) -> Run:
        """A plain torch loop: the teacher's forward in each step, or its answers ready in memory."""
        student, teacher = self.case.build(self.case.student), self._teacher()
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
        answers = [_answered(teacher, batch, self.bf16) for batch in self.ready]

        def run(batches: Sequence[Batch]) -> None:
            for batch, known in zip(batches, answers, strict=True):
                reply = _answered(teacher, batch, self.bf16) if taught else known
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    outputs = student(batch["image"])
                losses = (
                    self.recipe.loss(View(self.task, outputs, reply, batch, temperature=2.0))
                    if self.same_loss
                    else self.task.loss(outputs, batch)
                )
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(losses["loss"])
                optimizer.step()

        return run

    def ours(self, *, kept: bool) -> _Ours:
        """The loop and the lesson of `compress distill`, open while it is used."""
        return _Ours(self, kept=kept)

    def _teacher(self) -> nn.Module:
        """The teacher as ours runs it: frozen, batch norm folded away."""
        teacher = self.case.build(self.case.teacher).eval().requires_grad_(False)
        return fold_batch_norm(teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def profile(self) -> str:
        """Where the time of our step goes that a bare one doesn't spend: the costliest functions."""
        with self.ours(kept=False) as run:
            run(self.ready)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                run(self.ready)
        table: str = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
        return table


class _Ours:
    """Our steps as a context: the student's taps listen inside it."""

    def __init__(self, bench: Bench, *, kept: bool) -> None:
        case = bench.case
        fabric = make_fabric(device="cpu", devices=1, precision=best_precision("auto", "cpu"))
        student = case.build(case.student)
        slots = bench.slots if kept else 0
        memory = Memory(root=bench.folder, key={"data": bench.fingerprint}, patterns=int(kept), slots=slots,
                        visits=100.0, limit=1 << 32, keep=True if kept else None)  # fmt: skip
        course = Course(
            task=bench.task,
            teacher=case.build(case.teacher).eval().requires_grad_(False),
            recipe=bench.recipe,
            temperature=2.0,
            networks=(find_network(case.student), find_network(case.teacher)),
            wanted=None,
            memory=memory,
        )
        lesson = course.lesson(fabric, student)
        player = Player(student, torch.optim.Adam(student.parameters(), lr=1e-3), dict, Schedule(10_000, 1e-3))
        self.loop = Loop({"network": player}, fabric)
        player.loss = lambda batch: lesson.loss(self.loop.forward("network", batch["image"]), batch)
        self.open: Any = lesson.beside(self.loop.players["network"].module)

    def __enter__(self) -> Run:
        self.open.__enter__()
        return lambda batches: self.loop.run(map(channels_last, batches), _quiet, _forget)

    def __exit__(self, *error: object) -> None:
        self.open.__exit__(*error)


def _answered(teacher: nn.Module, batch: Batch, bf16: bool) -> list[Tensor]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return [output.float() for output in teacher(batch["image"])]


def _median(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def _quiet(note: str = "") -> None:
    del note


def _forget(step: int, losses: dict[str, float]) -> None:
    del step, losses


if __name__ == "__main__":
    main()
