"""The report's numbers as one long table: what was measured, and what is derived from it, in SI units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from compress.kit.intervals import Interval, percentiles
from reports.compare import Line
from reports.frame import OF_ARTIFACT, SETTING
from reports.pages import Page, Section

COLUMNS = (
    "source", "artifact", *OF_ARTIFACT, "temperature", "target", "quantity", "value", "unit", "better", "low", "high",
    "n", "p50", "p90", "p99", "run", "data", "split", "pixels", "batch", "threads", "cpu", "gpu", "browser", "renderer",
    "software", "limit", "passed", "images", "reference", "reference_target", "reason", "created",
)  # fmt: skip
_WHOLE = ("seed", "n", "pixels", "batch", "threads", "images")
_TOLD = ("limit", "passed", "images", "reference", "reference_target", "reason")  # details that make a row a judgement


def long_table(page: Page) -> pd.DataFrame:
    """One line a number. source: "measured" (a row of the store) or "derived" (a ratio to the teacher, 95 % interval).

    n: repeats or images behind the number; p50, p90, p99: of the repeats, for latencies.
    """
    told = {name: page.frame["details"].map(lambda details, name=name: details.get(name)) for name in _TOLD}
    measured = page.frame.assign(source="measured", n=page.frame["repeats"].map(len), **told)
    measured["software"] = measured["software"].where(measured["browser"] != "")
    latencies = measured[(measured["quantity"] == "latency") & (measured["n"] > 0)]
    spread = pd.DataFrame(
        [percentiles(samples) for samples in latencies["repeats"]], latencies.index, ["p50", "p90", "p99"]
    )
    derived = [record for section in page.sections for record in _derived(section)]
    parts = [measured.join(spread), pd.DataFrame.from_records(derived)]
    table = pd.concat([part for part in parts if len(part)]).reindex(columns=list(COLUMNS))
    return table.astype(dict.fromkeys(_WHOLE, "Int64"))


def _derived(section: Section) -> Iterator[dict[str, Any]]:
    for line in section.lines[1:]:
        yield _of(line) | {"quantity": "size_ratio", "value": line.size_ratio, "better": "higher"}
        for setting, speed in line.speeds.items():
            if speed.faster is not None:
                at = {name: getattr(setting, name) for name in SETTING}
                ratio = {"quantity": "latency_ratio", "better": "higher", "run": speed.ratio_run}
                yield _of(line) | at | ratio | _ends(speed.faster)
    for block in section.blocks:
        for line in block.lines:
            if line.change is not None:
                at = {"target": line.loss_target, "data": block.data, "split": block.split, "pixels": block.pixels}
                yield _of(line) | at | {"quantity": "loss_change", "better": "lower"} | _ends(line.change)


def _of(line: Line) -> dict[str, Any]:
    fields = {field: getattr(line.artifact, field) for field in OF_ARTIFACT}
    temperature = line.artifact.options.get("temperature")
    return {"source": "derived", "artifact": line.artifact.id, **fields, "temperature": temperature, "unit": "1"}


def _ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
