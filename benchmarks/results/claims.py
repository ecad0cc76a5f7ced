"""What is claimed, held against the numbers: reached, not reached, or not run yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.results.plan import Claim
from benchmarks.results.statistics import METRICS, Array, Comparison, compare
from compress.core.types import Artifact
from compress.kit.intervals import FEWEST_IMAGES

Verdict = Literal["reached", "not reached", "not run yet", "too few images to tell"]


@dataclass(frozen=True)
class Side:
    """What a stage made that is scored: by seed the artifact, and its scores by metric, (images, columns)."""

    artifacts: Mapping[int, Artifact]
    scores: Mapping[int, Mapping[str, Array]]
    once: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim and what became of it."""

    claim: Claim
    verdict: Verdict
    numbers: str = ""
    seeds: int = 0


def beside(mine: Side, theirs: Side, metric: str) -> Comparison | None:
    """Compare two stages over the seeds both have; None where they have none in common, or no such metric."""
    seeds = sorted(mine.scores) if theirs.once else sorted(mine.scores.keys() & theirs.scores.keys())
    if not seeds or not theirs.scores:
        return None
    if metric not in mine.scores[seeds[0]] or metric not in next(iter(theirs.scores.values())):
        return None
    others = [next(iter(theirs.scores.values()))] if theirs.once else [theirs.scores[seed] for seed in seeds]
    one = np.stack([mine.scores[seed][metric] for seed in seeds])
    return compare(METRICS[metric], one, np.stack([other[metric] for other in others]))


def judge(claim: Claim, sides: Mapping[str, Side], seeds: int) -> Judged:
    """Hold a claim against what there is.

    Args:
        claim: Which.
        sides: Stages by name.
        seeds: How many there have to be before anything is said.
    """
    mine = sides[claim.who]
    needed = 1 if mine.once else seeds
    theirs = sides.get(claim.against)
    compared = beside(mine, theirs, claim.metric) if theirs else None
    if len(mine.scores) < needed or (theirs is not None and (compared is None or compared.seeds < needed)):
        return Judged(claim, "not run yet", seeds=len(mine.scores))
    checks: list[tuple[bool, str]] = []
    if claim.bytes is not None:
        largest = max(artifact.bytes for artifact in mine.artifacts.values())
        checks.append((largest <= claim.bytes, f"{largest / 1e6:.2f} MB (at most {claim.bytes / 1e6:g})"))
    if claim.macs is not None and theirs:
        share = max(a.macs for a in mine.artifacts.values()) / max(a.macs for a in theirs.artifacts.values())
        checks.append((share <= claim.macs, f"{share:.3f} of its multiplications (at most {claim.macs:g})"))
    if compared:
        checks += _compared(claim, compared)
        if (claim.better or claim.not_worse) and compared.difference.n < FEWEST_IMAGES:
            return Judged(claim, "too few images to tell", _told(checks), compared.seeds)
    reached = bool(checks) and all(right for right, _ in checks)
    return Judged(claim, "reached" if reached else "not reached", _told(checks), len(mine.scores))


def _told(checks: Sequence[tuple[bool, str]]) -> str:
    return "; ".join(text for _, text in checks)


def _compared(claim: Claim, found: Comparison) -> list[tuple[bool, str]]:
    difference, ratio = found.difference, found.ratio
    checks = []
    if claim.ratio is not None:
        text = f"{claim.metric} {ratio.value:.3f}x{span(ratio.low, ratio.high, '{:.3f}')} (at most {claim.ratio:g})"
        checks.append((ratio.value <= claim.ratio, text))
    if claim.rise is not None:
        text = (
            f"{claim.metric} {difference.value:+.4f}{span(difference.low, difference.high)} (at most {claim.rise:+g})"
        )
        checks.append((difference.value <= claim.rise, text))
    beyond = difference.beyond(0.0)
    if claim.better:
        text = f"{claim.metric} {difference.value:+.4g}{span(difference.low, difference.high)} (all below 0)"
        checks.append((beyond < 0, text))
    if claim.not_worse:
        text = f"{claim.metric} {difference.value:+.4g}{span(difference.low, difference.high)} (not all above 0)"
        checks.append((beyond <= 0, text))
    return checks


def span(low: float | None, high: float | None, form: str = "{:+.4g}") -> str:
    """An interval in brackets, " [-0.1, +0.2]"; nothing where there is none."""
    return "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
