"""`benchmarks run`: choose models and targets, measure them in turns, tell the result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from benchmarks.choose import Choice, choose_models, choose_targets, match, ready
from benchmarks.harness import Outcome, Plan, Scoring, measure
from benchmarks.table import table
from compress.core.errors import CompressError, UsageError
from compress.core.options import Common, Seen, Split, positive
from compress.core.store import Store
from compress.core.types import to_json
from compress.jobs.desk import with_data

if TYPE_CHECKING:
    from compress.core.types import Artifact


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common, Seen):
    """Flags of `benchmarks run`."""

    target: tuple[str, ...] = ("cpu",)
    """Target to measure on, repeatable; see `benchmarks list`."""
    model: tuple[str, ...] = ()
    """Id, id prefix, name or .onnx file, repeatable; every artifact of the newest one's task when not given."""
    split: Split = "test"
    """Part of the data that is scored."""
    limit: int | None = None
    """Pictures to score, spread over the split; all when not given, 0 for latency only."""
    size: int | None = None
    """Pixels a side; each network's own when not given."""
    batch: int = 1
    """Pictures one inference takes."""
    repeats: int = 30
    """Timed inferences of each model."""
    warmup: int = 5
    """Untimed inferences after the first one, which is told apart."""
    threads: int = 0
    """Threads of one inference; 0 for all this process may use."""


def run(options: Options = Options()) -> Outcome | None:
    """Measure models in turns and keep the rows in the store.

    Raises:
        CompressError: At the end, if a model could not be measured; the rows of the others are kept.
    """
    _check(options)
    store, targets = Store(options.store), choose_targets(options.target)
    choice = match(choose_models(store, options.model), targets)
    options = with_data(options, _sharing_data(choice))
    scoring = _scoring(options, choice.pairs[0][0])
    if options.dry_run:
        _tell_plan(options, choice)
        return None
    choice = ready(store, choice, options.size)
    plan = Plan(options.repeats, options.warmup, options.threads, options.batch, options.seed, scoring)
    outcome = measure(store, choice.entries, plan)
    outcome.failed = choice.failed | outcome.failed
    _tell(options, choice, outcome)
    return outcome


def _sharing_data(choice: Choice) -> Artifact | None:
    """One of the models, where all that know what they were made with were made with the same data."""
    made = {tuple(artifact.options["data"]): artifact for artifact, _ in choice.pairs if artifact.options.get("data")}
    return next(iter(made.values())) if len(made) == 1 else None


def _check(options: Options) -> None:
    positive(repeats=options.repeats, batch=options.batch, size=options.size)
    for name in ("warmup", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise UsageError(f"--{name} is {value}, it can't be below 0", hint="see --help")


def _scoring(options: Options, artifact: Artifact) -> Scoring | None:
    """Open the data before anything is measured: a mistake in --data shows now, not in half an hour."""
    if options.limit == 0:
        return None
    from compress.tasks import TASKS

    task = TASKS.get(artifact.task)
    images = len(task.open(options.data, options.split, seed=options.seed))
    units = {metric.name: (metric.unit, metric.better) for metric in task.metrics}
    return Scoring(options.data, options.split, options.limit, min(images, options.limit or images), units)


def _tell_plan(options: Options, choice: Choice) -> None:
    pairs = [{"model": artifact.id, "name": artifact.name, "target": target} for artifact, target in choice.pairs]
    if options.json:
        print(json.dumps({"plan": pairs, "repeats": options.repeats}))
        return
    for pair in pairs:
        print(f"would measure {pair['name']} ({pair['model']}) on {pair['target']}, {options.repeats} repeats")


def _tell(options: Options, choice: Choice, outcome: Outcome) -> None:
    if options.json:
        rows = [to_json(row) for row in outcome.rows]
        print(json.dumps({"run": outcome.run, "rows": rows, "failed": outcome.failed}))
    else:
        print(table(choice.entries, outcome.rows))
        print(outcome.run)
    if outcome.failed:
        raise CompressError(
            f"{len(outcome.failed)} of {len(choice.pairs)} could not be measured: {', '.join(outcome.failed)}",
            hint="their reasons are above; the rows of the others are kept",
        )
