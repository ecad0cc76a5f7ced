"""Measure several models in turns, each in a process of its own, and keep every raw number.

All workers are started first; only one of them works at a time. Latency is measured in rounds: in each, every model
gets one block of repeats, in an order drawn anew, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.parity import References
from benchmarks.process import COMMAND, Process, WorkerError
from benchmarks.rows import Entry, Longest, Measured, Scored, Setting, Units, rows_of
from compress.core.console import Advance, log, progress
from compress.core.machine import cores, this_machine
from compress.core.store import Store
from compress.core.types import Row, to_json

BLOCK = 5  # repeats in a row before the next model's turn
LEAST = 3  # repeats that a model gets however slow it is


@dataclass(frozen=True)
class Scoring:
    """On what data the models are scored.

    images: how many there are to score, for the progress display; compared: how many of them are compared, value by
    value, with the pictures of the network a model came from.
    """

    data: tuple[str, ...]
    split: str
    limit: int | None
    images: int
    units: Units
    compared: int = 4


@dataclass(frozen=True)
class Plan:
    """How it is measured.

    threads: 0 for all. scoring: None for latency only. budget: seconds of timed inferences after which a model gets no
    more than ``LEAST`` repeats; 0 for none. longest: pixels a side of one more, largest inference; 0 for none.
    """

    repeats: int = 30
    warmup: int = 5
    budget: float = 0.0
    longest: int = 0
    threads: int = 0
    batch: int = 1
    seed: int = 0
    scoring: Scoring | None = None


@dataclass
class Outcome:
    """What a run gave: its rows, and why some models have none."""

    run: str
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Bench:
    measured: Measured
    process: Process
    alive: bool = True


def measure(store: Store, entries: Sequence[Entry], plan: Plan, *, refused: Sequence[tuple[Entry, str]] = (),
            command: Sequence[str] = COMMAND) -> Outcome:  # fmt: skip
    """Measure every entry and append the rows to the store, the finished ones also when interrupted.

    Args:
        store: Where the artifacts lie and the rows go.
        entries: What to measure.
        plan: How.
        refused: What could not even be started, and why.
        command: What starts a worker.

    Returns:
        Rows of every entry. One whose worker failed has a row that says why, and those of the steps it finished if
        its latency was among them.
    """
    setting = Setting(_run_id(), this_machine(plan.threads), plan.batch, BLOCK, plan.threads or cores())
    outcome = Outcome(setting.run)
    units = plan.scoring.units if plan.scoring else {}
    with _benches(entries, command) as benches:
        try:
            _measure(benches, store, plan, setting, outcome, command)
        finally:
            for bench in benches:
                outcome.rows += rows_of(bench.measured, setting, units)
            for entry, why in refused:
                outcome.rows += rows_of(Measured(entry, failed=why), setting, units)
                outcome.failed[_name(entry)] = why
            if outcome.rows:
                store.add_rows(outcome.rows)
    return outcome


def _run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def _benches(entries: Sequence[Entry], command: Sequence[str]) -> Iterator[list[_Bench]]:
    benches: list[_Bench] = []
    try:
        for entry in entries:
            benches.append(_Bench(Measured(entry), Process(command)))  # noqa: PERF401  # each is closed below
        yield benches
    finally:
        for bench in benches:
            bench.process.close()


def _measure(benches: list[_Bench], store: Store, plan: Plan, setting: Setting, outcome: Outcome,
             command: Sequence[str]) -> None:  # fmt: skip
    with progress("load and warm up", len(benches)) as advance:
        _each(benches, lambda bench: _load(bench, store, plan, setting.threads, advance), outcome)
    _rounds(benches, plan, outcome)
    # before anything is scored: that imports what the measured model does not need
    _each(benches, _weigh, outcome)
    if plan.scoring is not None:
        _score_all(benches, plan, plan.scoring, References(store, _request(plan, plan.scoring), command), outcome)
    if plan.longest:
        with progress(f"one inference at {plan.longest} px", len(benches)) as advance:
            _each(benches, lambda bench: _longest(bench, plan, advance), outcome)


def _each(benches: Sequence[_Bench], do: Callable[[_Bench], None], outcome: Outcome) -> None:
    """Do it for each bench that is alive, one after the other; one that fails does not take the others along."""
    for bench in benches:
        if not bench.alive:
            continue
        try:
            do(bench)
        except WorkerError as error:
            bench.alive = False
            bench.process.close()
            entry = bench.measured.entry
            bench.measured.failed = outcome.failed[_name(entry)] = str(error)
            log.error("%s (%s) on %s failed: %s", entry.artifact.name, entry.artifact.id, entry.target, error)


def _name(entry: Entry) -> str:
    return f"{entry.artifact.id} {entry.target}"


def _load(bench: _Bench, store: Store, plan: Plan, threads: int, advance: Advance) -> None:
    measured, entry = bench.measured, bench.measured.entry
    reply = bench.process.ask(
        "load",
        target=entry.name or entry.target,
        how=asdict(entry.how),
        store=str(store.root),
        artifact=to_json(entry.artifact),
        path=str(entry.path or ""),
        height=entry.height,
        width=entry.width,
        threads=threads,
        batch=plan.batch,
        seed=plan.seed,
    )
    measured.load, measured.memory_before, measured.describe = reply["seconds"], reply["before"], reply["describe"]
    measured.start = reply.get("start", 0.0)
    measured.first = _run(bench, 1)[0]
    slow = _slow(bench, plan)
    if slow:
        software = ", drawn by the processor" if measured.describe.get("software") else ""
        log.warning("%s takes %.0f s a picture on %s%s: a few repeats must do; --limit N scores fewer pictures",
                    entry.artifact.name, measured.first, entry.target, software)  # fmt: skip
    # what takes long each time needs no more than one inference to warm up
    _run(bench, min(plan.warmup, 1) if slow else plan.warmup)
    advance(entry.artifact.name)


def _slow(bench: _Bench, plan: Plan) -> bool:
    """Whether a few of its inferences fill the budget."""
    assert bench.measured.first is not None
    return bool(plan.budget) and bench.measured.first * 2 * BLOCK > plan.budget


def _run(bench: _Bench, count: int) -> list[float]:
    seconds: list[float] = bench.process.ask("run", count=count)["seconds"]
    return seconds


def _rounds(benches: list[_Bench], plan: Plan, outcome: Outcome) -> None:
    rng, blocks = random.Random(plan.seed), _blocks(plan.repeats)
    latencies: dict[int, list[float]] = {bench.process.id: [] for bench in benches}
    with progress(f"measure {plan.repeats} repeats in turns", len(blocks) * len(benches)) as advance:
        for block in blocks:

            def turn(bench: _Bench, count: int = block) -> None:
                mine = latencies[bench.process.id]
                if not (plan.budget and len(mine) >= LEAST and sum(mine) > plan.budget):
                    slow = _slow(bench, plan)
                    _run(bench, 0 if slow else 1)  # wakes its caches and threads: the model before it had them
                    mine += _run(bench, 1 if slow else count)
                advance(bench.measured.entry.artifact.name)

            _each(rng.sample(benches, len(benches)), turn, outcome)
    for bench in benches:
        if bench.alive:
            bench.measured.latencies = tuple(latencies[bench.process.id])


def _blocks(repeats: int) -> list[int]:
    whole, rest = divmod(repeats, BLOCK)
    return [BLOCK] * whole + ([rest] if rest else [])


def _weigh(bench: _Bench) -> None:
    reply, measured = bench.process.ask("memory"), bench.measured
    measured.memory_peak, measured.memories, measured.download = reply["peak"], reply["kinds"], reply["download"]


def _longest(bench: _Bench, plan: Plan, advance: Advance) -> None:
    bench.measured.longest = Longest(**bench.process.ask("longest", side=plan.longest, seed=plan.seed))
    advance(bench.measured.entry.artifact.name)


def _request(plan: Plan, scoring: Scoring) -> dict[str, Any]:
    return {"data": scoring.data, "split": scoring.split, "seed": plan.seed, "limit": scoring.limit,
            "kept": scoring.compared}  # fmt: skip


def _score_all(benches: list[_Bench], plan: Plan, scoring: Scoring, references: References, outcome: Outcome) -> None:
    with closing(references), progress("score", len(benches) * scoring.images) as advance:
        _each(benches, lambda bench: _score(bench, scoring, references, advance), outcome)
    _beside(benches, scoring, plan.seed)


def _score(bench: _Bench, scoring: Scoring, references: References, advance: Advance) -> None:
    entry = bench.measured.entry
    folder = references.folder(f"{bench.process.id}")
    reply = bench.process.ask("evaluate", advance, keep=str(folder), **references.request)
    bench.measured.scored = Scored(reply["metrics"], tuple(reply["losses"]), reply["data"], scoring.split, scoring.data)
    if scoring.compared:
        bench.measured.compared = references.compare(entry, folder, reply["mae"])


def _beside(benches: Sequence[_Bench], scoring: Scoring, seed: int) -> None:
    """Let one worker score the answer that needs no network on the same photos; every model's loss row tells it."""
    scored = [bench for bench in benches if bench.alive and bench.measured.scored is not None]
    if not scored:
        return
    try:
        reply = scored[0].process.ask(
            "baseline", data=scoring.data, split=scoring.split, seed=seed, limit=scoring.limit
        )
    except WorkerError as error:
        log.info("no baseline: %s", error)
        return
    for bench in scored:
        assert bench.measured.scored is not None
        bench.measured.scored = replace(bench.measured.scored, baseline=reply["baseline"])
