"""The page before it is laid out: a section a task, a block a data set, and how everything was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from compress.core.store import Store
from compress.core.types import Artifact, Better, Machine, Row
from reports import words
from reports.chains import chains_of
from reports.compare import Line, Setting, compare, settings_of, target_order, within
from reports.distilled import Distilled, distilled_of
from reports.finding import finding, remarks, warnings
from reports.frame import DATASET, newest, tidy
from reports.lineage import ordered, teacher_of
from reports.parity import Parity, parity_of
from reports.pictures import Strip, strip_of
from reports.provenance import Data, Machines, Made, Run, data_of, made_of, runs_of, when
from reports.pruned import Pruned, pruned_of, told_notes
from reports.quantized import Quantized, quantized_of, without_told
from reports.scores import Scores
from reports.speeds import speed, with_failed
from reports.tables import Table, by_target, comparison
from reports.web import Web, storage_note, web_of
from reports.web_tables import place

_FEW_TARGETS = 4  # up to which the metrics by target show a second one


@dataclass(frozen=True)
class Block:
    """The comparison on one data set."""

    anchor: str
    heading: str
    data: str
    split: str
    pixels: int
    finding: str
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]
    lines: tuple[Line, ...]
    settings: tuple[Setting, ...]  # whose latency the comparison shows, one a target; browsers have their own tables
    web: tuple[Setting, ...]  # those of browsers, one a target, on the one data set whose plots show them
    storage: str  # what must be known of models whose weights are only stored in fewer bits
    comparison: Table
    targets: Table | None  # the metrics on each target, where there are several
    strip: Strip | None
    glossary: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Speeds:
    """Speed and memory in one setting."""

    setting: Setting
    machine: str
    software: str
    table: Table


@dataclass(frozen=True)
class Section:
    """One task."""

    task: str
    teacher: Artifact
    lines: tuple[Line, ...]  # every model shown, whatever it was scored on
    blocks: tuple[Block, ...]
    speeds: tuple[Speeds, ...]
    parity: Parity | None
    web: Web | None
    distilled: Distilled | None
    pruned: Pruned | None
    chains: Table | None
    quantized: Quantized | None
    runs: tuple[Run, ...]
    made: tuple[Made, ...]
    data: tuple[Data, ...]
    unmeasured: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Everything the templates show. ``frame``: the rows behind it, newest only."""

    title: str
    newest: str
    models: int
    sections: tuple[Section, ...]
    machines: tuple[tuple[str, Machine], ...]
    frame: pd.DataFrame


def page_of(store: Store, artifacts: Sequence[Artifact], rows: Sequence[Row], *, title: str,
            chosen: frozenset[str]) -> Page:  # fmt: skip
    """Set out all there is to say.

    Args:
        store: Where the pictures lie.
        artifacts: All of the store, oldest first.
        rows: All of the store, oldest first.
        title: Of the page.
        chosen: Ids of the models to show beside their teacher; empty for all.
    """
    machines, sections, frames = Machines(), [], []
    by_task: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        by_task.setdefault(artifact.task, []).append(artifact)
    for task, members in sorted(by_task.items(), key=lambda item: -len(item[1])):
        frame = tidy(members, rows)
        teacher = teacher_of(members, set(frame["artifact"]))
        wanted = {a.id for a in members if not chosen or a.id in chosen or a.id == teacher.id}
        frame = frame[frame["artifact"].isin(wanted)]
        if set(frame["artifact"]) & (chosen or wanted):
            sections.append(_section(store, task, members, teacher, wanted, frame, machines))
            frames.append(newest(frame))
    known = pd.concat(frames, ignore_index=True)
    last = known.sort_values("order")["created"].iloc[-1]
    shown = sum(len(section.made) for section in sections)
    return Page(title, when(str(last)), shown, tuple(sections), tuple(machines.list), known)


def _section(store: Store, task: str, members: Sequence[Artifact], teacher: Artifact, wanted: set[str],
             frame: pd.DataFrame, machines: Machines) -> Section:  # fmt: skip
    known = {artifact.id: artifact for artifact in members}
    measured = set(frame["artifact"])
    shown = [
        a for a in members if a.id in wanted and (a.id in measured or a.notes.get("rejected") or a.id == teacher.id)
    ]
    shown = ordered(shown, teacher, known)
    blocks = _blocks(store, task, frame, shown, teacher, known)
    lines = compare(frame, frame.iloc[:0], shown, teacher, known)
    chosen, scores = [a for a in members if a.id in wanted], _scores(frame, blocks[0])
    used = _used(frame, lines)
    return Section(
        task=task,
        teacher=teacher,
        lines=tuple(lines),
        blocks=tuple(blocks),
        speeds=tuple(_speeds(frame, lines, machines)),
        parity=parity_of(frame, lines, known),
        web=web_of(frame, lines, machines),
        distilled=distilled_of(chosen, known, scores),
        pruned=pruned_of(chosen, known, scores),
        chains=chains_of(chosen, known, teacher, scores),
        quantized=quantized_of(lines),
        runs=tuple(runs_of(frame[frame["run"].isin(used)], machines)),
        made=tuple(made_of(_untold(artifact), known, machines) for artifact in shown),
        data=tuple(data_of(newest(frame), shown)),
        unmeasured=tuple(a.name for a in members if a.id in wanted and a not in shown),
    )


def _scores(frame: pd.DataFrame, block: Block) -> Scores:
    """Losses on the data set of the page's first table."""
    quality = frame[frame["group"] == "quality"]
    here = quality[(quality[list(DATASET)] == [block.data, block.split, block.pixels]).all(axis=1)]
    return Scores(here, _metrics(here))


def _untold(artifact: Artifact) -> Artifact:
    """The artifact without the notes that sections of their own tell."""
    plain, told = without_told(artifact), told_notes(artifact)
    return replace(plain, notes={name: value for name, value in plain.notes.items() if name not in told})


def _used(frame: pd.DataFrame, lines: Sequence[Line]) -> set[str]:
    """Runs that any number shown comes from."""
    return set(newest(frame)["run"]) | {speed.ratio_run for line in lines for speed in line.speeds.values()}


def _blocks(store: Store, task: str, frame: pd.DataFrame, shown: Sequence[Artifact], teacher: Artifact,
            known: dict[str, Artifact]) -> list[Block]:  # fmt: skip
    quality = frame[frame["group"] == "quality"]
    groups = [rows for _, rows in quality.groupby(list(DATASET), sort=False)] or [quality]
    groups.sort(key=lambda rows: (-rows["artifact"].nunique(), -rows["order"].max() if len(rows) else 0))
    blocks = []
    for position, scored in enumerate(groups):
        # a model that was scored nowhere still has its size and speed to show, once
        elsewhere = set(quality["artifact"]) - set(scored["artifact"]) if position == 0 else set()
        here = set(scored["artifact"]) | {teacher.id}
        artifacts = [a for a in shown if a.id in here or (position == 0 and a.id not in elsewhere)]
        blocks.append(_block(store, f"{task}-{position + 1}", frame, scored, artifacts, teacher, known))
    told = max(blocks, key=_web_points)
    return [block if block is told else replace(block, web=()) for block in blocks]


def _web_points(block: Block) -> int:
    """How many losses can be set against a latency in a browser: the plots are of the data set with the most."""
    return sum(setting in line.speeds and "loss" in line.values for setting in block.web for line in block.lines)


def _block(store: Store, anchor: str, frame: pd.DataFrame, scored: pd.DataFrame, shown: Sequence[Artifact],
           teacher: Artifact, known: dict[str, Artifact]) -> Block:  # fmt: skip
    lines = tuple(compare(frame, scored, shown, teacher, known))
    every = _one_a_target(settings_of(frame))
    settings, web = [s for s in every if not s.browser], [s for s in every if s.browser]
    metrics = _metrics(scored)
    data, split, pixels = next(scored[list(DATASET)].itertuples(index=False, name=None), ("", "", 0))
    return Block(
        anchor=anchor,
        heading=_heading(scored),
        data=data,
        split=split,
        pixels=pixels,
        finding=finding(lines, settings or web),
        remarks=tuple(remarks(lines, settings or web)),
        warnings=(*warnings(lines), *_lost(frame, lines, {setting.target for setting in settings})),
        lines=lines,
        settings=tuple(settings),
        web=tuple(sorted(web, key=lambda setting: place(setting.target))),
        storage=storage_note(line.artifact for line in lines if line.artifact.format == "tfjs"),
        comparison=comparison(lines, metrics, settings, _baseline(scored)),
        targets=_on_targets(scored, lines),
        strip=strip_of(store, data, lines),
        glossary=tuple((words.title(q), words.MEANINGS[q]) for q, _, _ in metrics if q in words.MEANINGS),
    )


def _lost(frame: pd.DataFrame, lines: Sequence[Line], shown: set[str]) -> list[str]:
    """Models that failed where no table would show it: outside a browser, on a target that gave no speed."""
    web = set(frame[frame["web"].astype(bool)]["target"])
    return [
        f"{line.artifact.name} on {target} failed: {reason}"
        for line in lines
        for target, reason in line.failures.items()
        if target not in web | shown
    ]


def _one_a_target(settings: Sequence[Setting]) -> list[Setting]:
    return list({setting.target: setting for setting in reversed(settings)}.values())[::-1]


def _metrics(scored: pd.DataFrame) -> list[tuple[str, str, Better]]:
    first = scored[scored["better"] != "none"].drop_duplicates("quantity")
    found = [(str(r["quantity"]), str(r["unit"]), r["better"]) for r in first.to_dict("records")]
    return found or [("loss", "1", "lower")]


def _baseline(scored: pd.DataFrame) -> dict[str, Any]:
    """The newest answer that needed no network on this data: its "name" and "metrics", or nothing."""
    told = [details["baseline"] for details in scored["details"] if details.get("baseline")]
    return dict(told[-1]) if told else {}


def _heading(scored: pd.DataFrame) -> str:
    if scored.empty:
        return "not scored on any data"
    first = scored.iloc[0]
    images = scored[scored["quantity"] == "images"]["value"]
    parts = [f"data {first['data']}"]
    parts += [f"{first['split']} split"] if first["split"] else []
    parts += [words.many(images.iloc[-1], "image")] if len(images) else []
    parts += [f"{first['pixels']} px"] if first["pixels"] else []
    return ", ".join(parts)


def _on_targets(scored: pd.DataFrame, lines: Sequence[Line]) -> Table | None:
    targets = target_order(scored)
    if len(targets) < 2:
        return None
    rows = newest(scored)
    values = dict(zip(zip(rows["artifact"], rows["target"], rows["quantity"], strict=True), rows["value"], strict=True))
    several = len(targets) > _FEW_TARGETS
    quantities = [(quantity, better) for quantity, _, better in _metrics(scored)][: 1 if several else 2]
    dead = rows[rows["web"].astype(bool) & (rows["quantity"] == "dead_masks")]
    quantities += [("dead_masks", "lower")] if (dead["value"] > 0).any() else []
    return by_target([line for line in lines if line.loss_target], values, quantities, targets)


def _speeds(frame: pd.DataFrame, lines: Sequence[Line], machines: Machines) -> list[Speeds]:
    found: list[Speeds] = []
    for setting in (setting for setting in settings_of(frame) if not setting.browser):
        timed = within(frame, setting)
        run = runs_of(timed[timed["quantity"] == "latency"].tail(1), machines)[0]
        table = speed(lines, setting)
        if all(setting.target != other.setting.target for other in found):  # told once: in the newest setting
            table = with_failed(table, lines, setting.target)
        found.append(Speeds(setting, run.machine, run.software, table))
    return found
