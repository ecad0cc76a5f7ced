"""The store as pandas frames: every measured row beside its artifact, the newest ones, one line a model, Pareto."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from compress.core.types import Artifact, Row

STATIC = ("size", "parameters", "macs", "download", "download_gzip", "download_brotli")
SPEED = (
    "load", "first", "latency", "throughput", "peak_memory", "js_memory", "gpu_memory", "wasm_memory", "first_mask_4g",
    "first_mask_cable", "longest",
)  # fmt: skip
PARITY = ("parity_max", "parity_mae")
ELSEWHERE = ("macs", "longest")  # taken at another size than the rest of their run

OF_ARTIFACT = ("name", "task", "kind", "network", "method", "format", "dtype", "parent", "teacher", "seed")
# what must agree before speeds stand in one column; the last three are empty outside a browser
SETTING = ("target", "pixels", "batch", "threads", "cpu", "gpu", "browser", "renderer", "software")
DATASET = ("data", "split", "pixels")  # what must agree before losses stand in one column
COLUMNS = (
    "order", "artifact", *OF_ARTIFACT, "temperature", "group", "target", "quantity", "value", "unit", "better",
    "run", "data", "split", "pixels", "batch", "threads", "cpu", "gpu", "browser", "renderer", "software", "web",
    "created", "repeats", "details", "machine",
)  # fmt: skip
_DECIDES = {
    "static": ("artifact", "target", "quantity", "pixels"),
    "speed": ("artifact", "quantity", "data", *SETTING),
    "quality": ("artifact", "target", "quantity", *DATASET),
    "parity": ("artifact", "target", "quantity"),
}  # rows of ablations belong to no table
_BACKENDS = {"webgl", "wasm", "webgpu"}  # a label that names one is a browser's, also where no browser came up
RASTERIZERS = {"swiftshader": "SwiftShader", "llvmpipe": "llvmpipe"}  # processors that imitate a graphics card
_COMPUTES = ("wasm", "cpu")  # backends that draw nothing, so nothing is drawn in software


def tidy(artifacts: Iterable[Artifact], rows: Sequence[Row]) -> pd.DataFrame:
    """Join rows with their artifacts: one line a row, oldest first, ``COLUMNS`` wide, SI units.

    ``group`` tells what the model is ("static"), what it takes ("speed"), what it loses ("quality"), how far its
    pictures are from the reference's ("parity") and that it could not be measured ("failed") apart. ``web``: ran in a
    browser. Rows of artifacts that are not given are left out.
    """
    known = {artifact.id: artifact for artifact in artifacts}
    records = [_record(order, row, known[row.artifact]) for order, row in enumerate(rows) if row.artifact in known]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the newest row of each artifact, target, quantity and data set (and, for speeds, of each setting)."""
    parts = [
        frame[frame["group"] == group].drop_duplicates(list(keys), keep="last") for group, keys in _DECIDES.items()
    ]
    return pd.concat([*parts, failures(frame)]).sort_values("order")


def failures(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep one row of each artifact and target that failed, unless a later run came through.

    Numbers of the same run don't make up for it: they are what was measured before it failed.
    """
    failed = frame[frame["group"] == "failed"].drop_duplicates(["artifact", "target"], keep="last")
    timed = frame[frame["group"] == "speed"][["artifact", "target", "order", "run"]]
    both = failed.merge(timed, on=["artifact", "target"], suffixes=("", "_timed"))
    since = both[(both["order_timed"] > both["order"]) & (both["run_timed"] != both["run"])]
    return failed[~failed["order"].isin(since["order"])]


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
    """Return "static", "speed", "parity", "failed", "ablation" or, for a task's metric, "quality"."""
    if quantity in ("ablation", "failed"):
        return quantity
    groups = {"static": STATIC, "speed": SPEED, "parity": PARITY}
    return next((group for group, members in groups.items() if quantity in members), "quality")


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
        **_in_browser(row),
        "repeats": row.repeats,
        "details": details,
        "machine": row.machine,
    }


def _in_browser(row: Row) -> dict[str, Any]:
    """What only a browser's rows tell: which one, what draws, and the threads that ran rather than those asked for."""
    runtime = runtime_of(row.details)
    if not runtime.get("browser"):
        web = bool(_BACKENDS & set(row.target.split("-")))
        return {"browser": "", "renderer": "", "software": False, "web": web}
    browser = f"{runtime['browser']} {runtime.get('browser_version') or ''}".strip()
    draws = runtime.get("backend") not in _COMPUTES
    renderer = str(runtime.get("renderer") or "") if draws else ""
    imitates = any(name in renderer.lower() for name in RASTERIZERS)
    told = {
        "browser": browser,
        "renderer": renderer,
        "software": draws and (bool(runtime.get("software")) or imitates),
        "web": True,
    }
    if "threads" in runtime and row.quantity not in ELSEWHERE:
        told["threads"] = int(runtime["threads"] or 0)
    return told


def runtime_of(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a row tells of what ran it; empty where it tells nothing."""
    runtime = details.get("runtime")
    return runtime if isinstance(runtime, Mapping) else {}
