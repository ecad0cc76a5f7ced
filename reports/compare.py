"""Every model beside its teacher: size ratio, speed within one run, loss over the same images, the thesis's line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from compress.core.types import Artifact
from compress.kit.intervals import Interval, percentiles, relative_change, speedup
from reports import words
from reports.frame import RASTERIZERS, SETTING, failures, newest, wide
from reports.lineage import Role, Thesis, describe, role_of, thesis_of


@dataclass(frozen=True)
class Setting:
    """What agrees within one column of speeds."""

    target: str
    pixels: int
    batch: int
    threads: int
    cpu: str
    gpu: str
    browser: str = ""  # with its version; "" outside a browser
    renderer: str = ""  # what draws there, as the browser names it
    software: bool = False  # whether that is a processor which imitates a graphics card

    @property
    def label(self) -> str:
        """In one line: "320 px, batch 1, 2 threads"; no threads where the runtime has none of its own."""
        parts = [f"{self.pixels} px"] if self.pixels else []
        parts += [f"batch {self.batch}"] if self.batch else []
        parts += [words.many(self.threads, "thread")] if self.threads else []
        return ", ".join(parts)

    @property
    def caveat(self) -> str:
        """What must stand wherever its speed does: "software rendering (SwiftShader): not a GPU's speed"; or ""."""
        if not self.software:
            return ""
        known = (name for sign, name in RASTERIZERS.items() if sign in self.renderer.lower())
        name = next(known, self.renderer)
        return f"software rendering{f' ({name})' if name else ''}: not a GPU's speed"

    @property
    def heading(self) -> str:
        """The target, and the caveat where there is one."""
        return f"{self.target}, {self.caveat}" if self.software else self.target


@dataclass(frozen=True)
class Speed:
    """One model's speed in one setting. Seconds, bytes; None where it was not measured.

    ``faster`` comes from the newest run that has the teacher too, ``ratio_run``; None where no run has both.
    """

    latency: float
    p90: float
    p99: float
    repeats: int
    run: str
    load: float | None
    first: float | None
    throughput: float | None
    peak_memory: float | None
    faster: Interval | None
    ratio_run: str


@dataclass(frozen=True)
class Line:
    """One model of a block, with all that is known of it. Bytes, seconds, shares of the teacher's."""

    artifact: Artifact
    role: Role
    made: str
    size: float
    size_ratio: float
    values: Mapping[str, float]  # metrics, parameters, macs
    loss_target: str
    change: Interval | None
    speeds: Mapping[Setting, Speed]
    thesis: Thesis | None
    failures: Mapping[str, str]  # target -> why it could not be measured there

    @property
    def rejected(self) -> str:
        """Why it was rejected, "" if it was not."""
        why = self.artifact.notes.get("rejected")
        return "" if not why else why if isinstance(why, str) else "it failed the check it was made under"


def target_order(frame: pd.DataFrame) -> list[str]:
    """Targets, those of a browser last, else the one that most models were scored on first."""
    models = frame.groupby("target")["artifact"].nunique()
    web = set(frame[frame["web"].astype(bool)]["target"])
    return sorted(models.index, key=lambda target: (target in web, -models[target], target != "cpu", target))


def settings_of(frame: pd.DataFrame) -> list[Setting]:
    """Settings in which latency was measured: by target, real cards before imitated ones, the newest row's first."""
    timed = frame[frame["quantity"] == "latency"]
    last = timed.groupby(list(SETTING))["order"].max().sort_values(ascending=False)
    settings = [Setting(*key) for key in last.index]
    rank = {target: position for position, target in enumerate(target_order(timed))}
    return sorted(settings, key=lambda setting: (rank[setting.target], setting.software))


def compare(frame: pd.DataFrame, scored: pd.DataFrame, artifacts: Sequence[Artifact], teacher: Artifact,
            known: Mapping[str, Artifact]) -> list[Line]:  # fmt: skip
    """Set every model beside the teacher.

    Args:
        frame: All rows of the task.
        scored: Its quality rows on one data set.
        artifacts: What to show, in order.
        teacher: What to compare with.
        known: All artifacts by id, for names.
    """
    targets = target_order(scored if len(scored) else frame)
    targets += [target for target in target_order(frame) if target not in targets]
    table = wide(pd.concat([frame[frame["group"] == "static"], scored]), targets)
    losses = losses_of(scored, targets)
    settings = settings_of(frame)
    sizes = {a.id: _known(table, a.id, "size") or float(a.bytes) for a in (*artifacts, teacher)}
    reasons = _reasons(frame)
    return [
        Line(
            artifact=artifact,
            role=role_of(artifact, teacher),
            made=describe(artifact, teacher, known),
            size=sizes[artifact.id],
            size_ratio=sizes[teacher.id] / sizes[artifact.id],
            values=_born(artifact) | _values(table, artifact.id),
            loss_target=losses[artifact.id]["target"] if artifact.id in losses else "",
            change=change_of(losses, artifact, teacher),
            speeds={s: speed for s in settings if (speed := _speed(within(frame, s), artifact.id, teacher.id))},
            thesis=thesis_of(artifact, known),
            failures=reasons.get(artifact.id, {}),
        )
        for artifact in artifacts
    ]


def _reasons(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Why a model could not be measured: by artifact, by target."""
    found: dict[str, dict[str, str]] = {}
    for artifact, target, details in failures(frame)[["artifact", "target", "details"]].itertuples(index=False):
        found.setdefault(artifact, {})[target] = str(details.get("reason") or "no reason was recorded")
    return found


def _born(artifact: Artifact) -> dict[str, float]:
    counts = {"parameters": float(artifact.parameters), "macs": float(artifact.macs)}
    return {name: value for name, value in counts.items() if value}


def _values(table: pd.DataFrame, artifact: str) -> dict[str, float]:
    if artifact not in table.index:
        return {}
    return _plain(table.loc[artifact].dropna())


def _plain(series: Any) -> dict[str, Any]:
    """A pandas series as a dictionary."""
    return {str(name): value for name, value in series.items()}


def _known(table: pd.DataFrame, artifact: str, column: str) -> float | None:
    if artifact not in table.index or column not in table:
        return None
    value: Any = table.loc[artifact, column]
    return None if pd.isna(value) else float(value)


def losses_of(scored: pd.DataFrame, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The loss row that is shown of each model: on the first target that has one."""
    rows = newest(scored[scored["quantity"] == "loss"])
    rank = rows["target"].map({target: position for position, target in enumerate(targets)})
    first = rows.assign(rank=rank).sort_values("rank").drop_duplicates("artifact")
    return {str(record["artifact"]): _plain(record) for _, record in first.iterrows()}


def change_of(losses: Mapping[str, dict[str, Any]], artifact: Artifact, teacher: Artifact) -> Interval | None:
    """Relative change of the loss against the teacher's, paired over images where both rows have them; else None.

    losses: as ``losses_of`` gives them.
    """
    if artifact.id == teacher.id or artifact.id not in losses or teacher.id not in losses:
        return None
    mine, theirs = losses[artifact.id], losses[teacher.id]
    if not (theirs["value"] > 0 and math.isfinite(mine["value"]) and math.isfinite(theirs["value"])):
        return None
    if len(theirs["repeats"]) == len(mine["repeats"]) and _by_image(theirs) and _by_image(mine):
        return relative_change(theirs["repeats"], mine["repeats"])
    return Interval(mine["value"] / theirs["value"] - 1, None, None, 0)


def _by_image(row: Mapping[str, Any]) -> bool:
    """Whether the row's repeats are the losses of images whose mean its value is."""
    return len(row["repeats"]) > 0 and bool(np.isclose(np.mean(row["repeats"]), row["value"]))


def within(frame: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Keep the speed rows of one setting."""
    chosen = frame["group"] == "speed"
    for field in SETTING:
        chosen &= frame[field] == getattr(setting, field)
    return frame[chosen]


def _speed(rows: pd.DataFrame, artifact: str, teacher: str) -> Speed | None:
    mine = rows[rows["artifact"] == artifact]
    last = mine.drop_duplicates("quantity", keep="last").set_index("quantity")
    if "latency" not in last.index:
        return None
    latency = _plain(last.loc["latency"])
    repeats = tuple(latency["repeats"]) or (latency["value"],)
    _, p90, p99 = percentiles(repeats)
    known: dict[str, float] = _plain(last["value"])
    others = {name: known.get(name) for name in ("load", "first", "throughput", "peak_memory")}
    faster, run = _faster(rows[rows["quantity"] == "latency"], artifact, teacher)
    return Speed(float(latency["value"]), p90, p99, len(repeats), str(latency["run"]), **others, faster=faster,
                 ratio_run=run)  # fmt: skip


def _faster(latencies: pd.DataFrame, artifact: str, teacher: str) -> tuple[Interval | None, str]:
    """The ratio within the newest run that has both: only what was measured in turns may be compared."""
    mine, theirs = (
        latencies[latencies["artifact"] == who].drop_duplicates("run", keep="last") for who in (artifact, teacher)
    )
    both = mine.merge(theirs, on="run", suffixes=("", "_teacher")).sort_values("order")
    if artifact == teacher or both.empty:
        return None, ""
    row = both.iloc[-1]
    samples = [tuple(row[f"repeats{side}"]) or (row[f"value{side}"],) for side in ("_teacher", "")]
    return speedup(samples[0], samples[1]), str(row["run"])
