"""From jobs to pages: every family's networks found or made, then scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.results.claims import Side
from benchmarks.results.plan import Family
from benchmarks.results.run import Desk, Outcome, found
from benchmarks.results.score import Judge
from benchmarks.results.table import Page
from benchmarks.results.words import Setting
from compress.core.console import log
from compress.core.machine import commit, this_machine
from compress.core.types import to_json
from compress.jobs.desk import now


def make_pages(desk: Desk, families: Sequence[Family]) -> list[Page]:
    """Go through the plan of every family, then score what there is."""
    outcomes = {family.name: list(desk.go(family)) for family in families}
    return [_page(desk, family, outcomes[family.name]) for family in families]


def told_of(setting: Setting, seeds: int) -> dict[str, Any]:
    """When, where and with how many seeds, as a record with a line of "text"."""
    machine = this_machine()
    text = f"{seeds} seeds, {machine.cpu}, {machine.cores} cores, commit {commit() or 'unknown'}, {now()[:10]}."
    if setting.quick:
        text += " **A trial at tiny size on made-up pictures: its numbers mean nothing.**"
    return {"text": text, "seeds": seeds, "quick": setting.quick, "machine": to_json(machine), "commit": commit()}


def _page(desk: Desk, family: Family, outcomes: Sequence[Outcome]) -> Page:
    for why in sorted({outcome.why for outcome in outcomes if outcome.state == "no data"}):
        log.warning("%s is left out: %s; name the data with --data-root", family.name, why)
    there = [outcome for outcome in outcomes if outcome.artifact]
    judge = Judge(desk.store, family, desk.setting) if there and not _gone(outcomes) else None
    sides = {}
    for stage in family.stages:
        every = {seed: found(outcomes, stage.name, seed) for seed in range(1 if stage.once else desk.seeds)}
        artifacts = {seed: artifact for seed, artifact in every.items() if artifact is not None}
        scores = {seed: judge.scores(artifact) for seed, artifact in artifacts.items()} if judge else {}
        sides[stage.name] = Side(artifacts, scores, stage.once)
    return Page(family, outcomes, sides, len(judge.images) if judge else 0, desk.seeds)


def _gone(outcomes: Sequence[Outcome]) -> bool:
    return any(outcome.state == "no data" for outcome in outcomes)
