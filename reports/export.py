"""The report's numbers as one long table: what was measured, and what is derived from it, in SI units."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.frame import OF_ARTIFACT
from reports.intervals import Interval, percentiles
from reports.pages import Block, Page

COLUMNS = (
    "source", "artifact", *OF_ARTIFACT, "temperature", "target", "quantity", "value", "unit", "better", "low", "high",
    "n", "p50", "p90", "p99", "run", "data", "split", "pixels", "batch", "threads", "cpu", "gpu", "created",
)  # fmt: skip


def long_table(page: Page) -> pd.DataFrame:
    """One line a number. source: "measured" (a row of the store) or "derived" (a ratio to the teacher, 95 % interval).

    n: repeats or images behind the number; p50, p90, p99: of the repeats, for latencies.
    """
    measured = page.frame.assign(source="measured", n=page.frame["repeats"].map(len))
    latencies = measured[(measured["quantity"] == "latency") & (measured["n"] > 0)]
    spread = pd.DataFrame([percentiles(samples) for samples in latencies["repeats"]], latencies.index, ["p50", "p90", "p99"])
    blocks = [block for section in page.sections for block in section.blocks]
    derived = [record for position, block in enumerate(blocks) for record in _derived(block, first=_is_first(blocks, position))]
    parts = [measured.join(spread), pd.DataFrame.from_records(derived)]
    return pd.concat([part for part in parts if len(part)]).reindex(columns=list(COLUMNS))


def _is_first(blocks: list[Block], position: int) -> bool:
    """Whether it is the first block of its task: sizes and speeds are told once."""
    task = blocks[position].lines[0].artifact.task
    return all(block.lines[0].artifact.task != task for block in blocks[:position])


def _derived(block: Block, *, first: bool) -> list[dict[str, Any]]:
    records = []
    for line in block.lines[1:]:
        of = {"artifact": line.artifact.id, **{field: getattr(line.artifact, field) for field in OF_ARTIFACT},
              "temperature": line.artifact.options.get("temperature"), "source": "derived", "unit": "1"}  # fmt: skip
        if line.change is not None:
            scored = {"quantity": "loss_change", "better": "lower", "data": block.data, "target": line.loss_target}
            records.append(of | scored | _ends(line.change))
        if not first:
            continue
        records.append(of | {"quantity": "size_ratio", "value": line.size_ratio, "better": "higher"})
        for setting, speed in line.speeds.items():
            if speed.faster is not None:
                at = {name: getattr(setting, name) for name in ("target", "pixels", "batch", "threads", "cpu", "gpu")}
                ratio = {"quantity": "latency_ratio", "better": "higher", "run": speed.ratio_run}
                records.append(of | at | ratio | _ends(speed.faster))
    return records


def _ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
