"""`benchmarks run`: choose models and targets, measure them in turns, tell the result."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from benchmarks.choose import Choice, choose_models, choose_targets, match, ready
from benchmarks.harness import Outcome, Plan, Scoring, measure
from benchmarks.table import table
from benchmarks.targets.base import How
from compress.core.console import log
from compress.core.errors import CompressError, ParityError, UsageError
from compress.core.options import Common, Seen, Split, positive
from compress.core.store import Store
from compress.core.types import to_json
from compress.jobs.desk import with_data

if TYPE_CHECKING:
    from compress.core.types import Artifact

WEB_LIMIT = 8  # photos scored where nothing is said and a browser takes part: software WebGL takes minutes for one


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
    """Pictures to score, spread over the split; when not given all, or 8 on targets in a browser. 0: latency only."""
    compared: int = 4
    """Pictures of those that are compared, value by value, with those of the network a model came from."""
    check: bool = False
    """Exit with 5 where such a difference is above the limit declared for the model's type of number."""
    size: int | None = None
    """Pixels a side; each network's own when not given."""
    batch: int = 1
    """Pictures one inference takes."""
    repeats: int = 30
    """Timed inferences of each model."""
    warmup: int = 5
    """Untimed inferences after the first one, which is told apart."""
    budget: float = 120.0
    """Seconds of timed inferences a model, after which it gets no further repeats (3 at least); 0 for no such end."""
    threads: int = 0
    """Threads of one inference; 0 for all this process may use."""
    longest: int = 0
    """Pixels a side of one more inference, the largest a user may bring; 0 for none."""
    runtime: tuple[Literal["tfjs", "ort-web"], ...] = ("tfjs",)
    """What runs the network in a browser, TensorFlow.js or ONNX Runtime Web; repeatable, each is measured."""
    browser: tuple[str, ...] = ("",)
    """Browser, repeatable: chromium, firefox or the path of a program; the first one found when not given."""
    headed: bool = False
    """Show the browser's window."""
    patience: float = 300.0
    """Seconds one inference in a browser may take before it counts as hung."""


def run(options: Options = Options()) -> Outcome | None:
    """Measure models in turns and keep the rows in the store.

    Raises:
        CompressError: At the end, if a model could not be measured; the rows of the others are kept.
        ParityError: At the end, if ``--check`` is given and a difference is above its limit.
    """
    _check(options)
    hows = [
        How(runtime, browser, options.headed, options.patience)
        for browser in options.browser
        for runtime in options.runtime
    ]
    store, targets = Store(options.store), choose_targets(options.target, hows)
    choice = match(choose_models(store, options.model), targets)
    options = with_data(options, _sharing_data(choice))
    if options.limit is None and any(target.web for target in targets):
        options = replace(options, limit=WEB_LIMIT)
    scoring = _scoring(options, choice.pairs[0][0])
    if options.dry_run:
        _tell_plan(options, choice)
        return None
    choice = ready(store, choice, options.size)
    plan = Plan(
        repeats=options.repeats,
        warmup=options.warmup,
        budget=options.budget,
        longest=options.longest,
        threads=options.threads,
        batch=options.batch,
        seed=options.seed,
        scoring=scoring,
    )
    outcome = measure(store, choice.entries, plan, refused=choice.refused)
    _tell(options, choice, outcome)
    return outcome


def _sharing_data(choice: Choice) -> Artifact | None:
    """One of the models, where all that know what they were made with were made with the same data."""
    made = {tuple(artifact.options["data"]): artifact for artifact, _ in choice.pairs if artifact.options.get("data")}
    return next(iter(made.values())) if len(made) == 1 else None


def _check(options: Options) -> None:
    positive(repeats=options.repeats, batch=options.batch, size=options.size, patience=options.patience)
    for name in ("warmup", "threads", "limit", "compared", "budget", "longest"):
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
    return Scoring(options.data, options.split, options.limit, min(images, options.limit or images), units,
                   options.compared)  # fmt: skip


def _tell_plan(options: Options, choice: Choice) -> None:
    pairs = [{"model": artifact.id, "name": artifact.name, "target": target.label} for artifact, target in choice.pairs]
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
        print(table([*choice.entries, *(entry for entry, _ in choice.refused)], outcome.rows))
        print(outcome.run)
    _tell_parity(options, outcome)
    if outcome.failed:
        raise CompressError(
            f"{len(outcome.failed)} of {len(choice.pairs)} could not be measured: {', '.join(outcome.failed)}",
            hint="their reasons are above; the rows of the others are kept",
        )


def _tell_parity(options: Options, outcome: Outcome) -> None:
    compared = [row for row in outcome.rows if row.quantity == "parity_max"]
    outside = [row for row in compared if not row.details["passed"]]
    for row in outside:
        log.warning("%s on %s differs from %s by %.3g, wanted %g at most", row.artifact, row.target,
                    row.details["reference"], row.value, row.details["limit"])  # fmt: skip
    if options.check and outside:
        raise ParityError(
            f"{len(outside)} of {len(compared)} models differ from the network they came from by more than their limit",
            hint="which, and by how much, is said above; `reports build` shows the matrix",
        )
