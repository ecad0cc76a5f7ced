"""The store as pandas frames: every measured row beside its artifact, the newest ones, one line a model, Pareto."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from compress.core.types import Artifact, Row

STATIC = ("size", "parameters", "macs")
SPEED = ("load", "first", "latency", "throughput", "peak_memory")

OF_ARTIFACT = ("name", "task", "kind", "network", "method", "format", "dtype", "parent", "teacher", "seed")
SETTING = ("target", "pixels", "batch", "threads", "cpu", "gpu")  # what must agree before speeds stand in one column
DATASET = ("data", "split", "pixels")  # what must agree before losses stand in one column
COLUMNS = (
    "order", "artifact", *OF_ARTIFACT, "temperature", "group", "target", "quantity", "value", "unit", "better",
    "run", "data", "split", "pixels", "batch", "threads", "cpu", "gpu", "created", "repeats", "details", "machine",
)  # fmt: skip
_DECIDES = {
    "static": ("artifact", "target", "quantity", "pixels"),
    "speed": ("artifact", "quantity", "data", *SETTING),
    "quality": ("artifact", "target", "quantity", *DATASET),
}  # rows of ablations belong to no table


def tidy(artifacts: Iterable[Artifact], rows: Sequence[Row]) -> pd.DataFrame:
    """Join rows with their artifacts: one line a row, oldest first, ``COLUMNS`` wide, SI units.

    ``group`` tells what the model is ("static"), what it takes ("speed") and what it loses ("quality") apart.
    Rows of artifacts that are not given are left out.
    """
    known = {artifact.id: artifact for artifact in artifacts}
    records = [_record(order, row, known[row.artifact]) for order, row in enumerate(rows) if row.artifact in known]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the newest row of each artifact, target, quantity and data set (and, for speeds, of each setting)."""
    parts = [
        frame[frame["group"] == group].drop_duplicates(list(keys), keep="last") for group, keys in _DECIDES.items()
    ]
    return pd.concat(parts).sort_values("order")


def wide(frame: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Turn rows into one line an artifact: a column a quantity, speeds as "latency@cpu", newest value each.

    Args:
        frame: Rows of one data set at most.
        targets: The target whose sizes and losses are taken first, then the next.
    """
    rank = frame["target"].map({target: -position for position, target in enumerate(targets)})
    ordered = newest(frame).assign(rank=rank).sort_values(["rank", "order"])
    at = ordered["quantity"] + "@" + ordered["target"]
    column = ordered["quantity"].where(ordered["group"] != "speed", at)
    table = ordered.assign(column=column).groupby(["artifact", "column"])["value"].last().unstack("column")
    return table.rename_axis(index=None, columns=None)


def pareto(frame: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Keep the lines that no other beats: none is as good in both columns and better in one; lower is better.

    Lines without a number in either column are left out. Sorted by ``x``.
    """
    if x not in frame or y not in frame:
        return frame.iloc[:0]
    known = frame.dropna(subset=[x, y]).sort_values([x, y])
    keep, best, at = [], float("inf"), float("nan")
    for cost, loss in zip(known[x], known[y], strict=True):
        wins = loss < best or (loss == best and cost == at)  # an exact twin is not beaten
        keep.append(wins)
        best, at = (loss, cost) if loss < best else (best, at)
    return known[pd.Series(keep, index=known.index, dtype=bool)]


def group_of(quantity: str) -> str:
    """Return "static", "speed", "ablation" or, for a task's metric, "quality"."""
    if quantity == "ablation":
        return "ablation"
    return "static" if quantity in STATIC else "speed" if quantity in SPEED else "quality"


def _record(order: int, row: Row, artifact: Artifact) -> dict[str, Any]:
    details = row.details
    return {
        "order": order,
        **{field: getattr(artifact, field) for field in OF_ARTIFACT},
        "temperature": artifact.options.get("temperature"),
        "group": group_of(row.quantity),
        **{f: getattr(row, f) for f in ("artifact", "target", "quantity", "value", "unit", "better", "run", "created")},
        "data": str(details.get("data") or ""),
        "split": str(details.get("split") or ""),
        "pixels": int(details.get("size") or 0),
        "batch": int(details.get("batch") or 0),
        "threads": int(details.get("threads") or row.machine.threads),
        "cpu": row.machine.cpu,
        "gpu": row.machine.gpu,
        "repeats": row.repeats,
        "details": details,
        "machine": row.machine,
    }
