"""The results as Markdown and as JSON, from what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.results.claims import Judged, Side, beside, judge, span
from benchmarks.results.plan import TEACHER, Family, Stage
from benchmarks.results.run import Outcome, best_temperature
from benchmarks.results.statistics import METRICS, value

ALONE = "alone"  # name of the stage that others are held against
METHOD = """\
Every student of a family is trained on the same pictures with equal steps, batch, size and augmentation. Numbers are
means over seeds, of held-back pictures that no training and no choice saw, at their own size; a T is chosen on
validation pictures at seed 0. Brackets: 95 % interval of the difference to the student alone, images and seeds drawn
together with replacement, the same ones for both sides (`benchmarks/results/statistics.py`)."""


@dataclass(frozen=True)
class Page:
    """Everything that is known of one family."""

    family: Family
    outcomes: Sequence[Outcome]
    sides: Mapping[str, Side]
    images: int
    seeds: int

    @property
    def claims(self) -> list[Judged]:
        """What is claimed of it, judged."""
        return [judge(claim, self.sides, self.seeds) for claim in self.family.claims]


def markdown(pages: Sequence[Page], about: str) -> str:
    """The whole text: method, a table for each family, the claims."""
    parts = ["# Distillation and pruning: results", about, METHOD]
    for page in pages:
        parts += [f"## {page.family.name}", f"{page.family.about}.", _table(page), *_notes(page)]
    parts += ["## What was to be reached", _claims(pages)]
    return "\n\n".join(parts) + "\n"


def listing(outcomes: Sequence[Outcome]) -> str:
    """Every job with its state and minutes, and the sums."""
    width = max(len(outcome.job.name) for outcome in outcomes)
    lines = [
        f"{o.job.name:<{width}}  {o.state:<8} {o.minutes:>6.1f} min{'  took' if o.artifact else ''}"
        f"{'  ' + o.why if o.why else ''}"
        for o in outcomes
    ]
    left = sum(o.minutes for o in outcomes if not o.artifact)
    done = sum(o.minutes for o in outcomes if o.artifact)
    return "\n".join(
        [*lines, f"{len(outcomes)} stages: {done:.0f} min taken, about {left:.0f} min to go on two idle cores"]
    )


def record(pages: Sequence[Page], about: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain JSON, every image's scores aside."""
    return {**about, "families": {page.family.name: _record(page) for page in pages}}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(page: Page) -> str:
    metrics = page.family.metrics
    head = [
        "",
        "MB",
        "GMACs",
        *(cell for name in metrics for cell in (name, "against alone", "of the teacher's")),
        "seeds",
    ]
    rows = [_cells(page, stage) for stage in page.family.stages if page.sides[stage.name].scores]
    if not rows:
        return "Nothing has been run yet."
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)])


def _cells(page: Page, stage: Stage) -> list[str]:
    side = page.sides[stage.name]
    size = max(artifact.bytes for artifact in side.artifacts.values()) / 1e6
    macs = max(artifact.macs for artifact in side.artifacts.values()) / 1e9
    cells = [_named(page, stage), f"{size:.2f}", f"{macs:.3f}"]
    for name in page.family.metrics:
        known = [scores[name] for scores in side.scores.values() if name in scores]
        mean = sum(float(value(METRICS[name], each[None])[0]) for each in known) / len(known) if known else None
        cells += ["" if mean is None else f"{mean:.4f}", _against(page, stage, name), _ratio(page, stage, name)]
    return [*cells, str(len(side.scores))]


def _named(page: Page, stage: Stage) -> str:
    T = best_temperature(page.outcomes, stage.name)
    tells = stage.tells or stage.name
    return f"{tells}, T = {T:g}" if T is not None else tells


def _against(page: Page, stage: Stage, metric: str) -> str:
    if stage.name in (ALONE, TEACHER) or ALONE not in page.sides:
        return ""
    compared = beside(page.sides[stage.name], page.sides[ALONE], metric)
    if compared is None:
        return ""
    return f"{compared.difference.value:+.4f}{span(compared.difference.low, compared.difference.high, '{:+.4f}')}"


def _ratio(page: Page, stage: Stage, metric: str) -> str:
    if stage.name == TEACHER:
        return ""
    compared = beside(page.sides[stage.name], page.sides[TEACHER], metric)
    return "" if compared is None else f"{compared.ratio.value:.3f}x"


def _notes(page: Page) -> list[str]:
    sweeps = []
    for stage in page.family.stages:
        tried = [o for o in page.outcomes if o.job.stage is stage and o.job.seed == 0 and o.artifact and stage.sweep]
        if tried:
            losses = ", ".join(f"{o.job.temperature:g}: {o.artifact.metrics['loss']:.4f}" for o in tried if o.artifact)
            sweeps.append(f"Validation loss of {stage.name} at seed 0 by T: {losses}.")
    lacking = [f"{o.job.name} ({o.why or o.state})" for o in page.outcomes if o.artifact is None]
    return [*sweeps, *([f"Not there yet: {', '.join(lacking)}."] if lacking else [])]


def _claims(pages: Sequence[Page]) -> str:
    lines = [_row(["family", "figure", "", "found"]), _row(["---"] * 4)]
    for page in pages:
        for judged in page.claims:
            verdict = f"**{judged.verdict}**" if judged.verdict == "not reached" else judged.verdict
            lines.append(_row([page.family.name, judged.claim.says, verdict, judged.numbers]))
    return "\n".join(lines)


def _record(page: Page) -> dict[str, Any]:
    return {
        "images": page.images,
        "seeds": page.seeds,
        "stages": {stage.name: _stage(page, stage) for stage in page.family.stages},
        "claims": [
            {"says": j.claim.says, "verdict": j.verdict, "numbers": j.numbers, "seeds": j.seeds} for j in page.claims
        ],
        "lacking": {o.job.name: o.why or o.state for o in page.outcomes if o.artifact is None},
    }


def _stage(page: Page, stage: Stage) -> dict[str, Any]:
    side = page.sides[stage.name]
    found: dict[str, Any] = {"artifacts": {str(seed): artifact.id for seed, artifact in side.artifacts.items()}}
    found["values"] = {
        str(seed): {name: float(value(METRICS[name], each[None])[0]) for name, each in scores.items()}
        for seed, scores in side.scores.items()
    }
    for name, other in (("against_alone", ALONE), ("against_teacher", TEACHER)):
        if other in page.sides and stage.name != other:
            pairs = {metric: beside(side, page.sides[other], metric) for metric in page.family.metrics}
            found[name] = {metric: asdict(pair) for metric, pair in pairs.items() if pair}
    return found
