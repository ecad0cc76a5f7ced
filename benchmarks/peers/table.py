"""The table of peers as Markdown, from what a run wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = (
    "peer",
    "scored in",
    "MB",
    "smaller",
    "quantized in, s",
    "dMAE",
    "loss against float32",
    "dead",
    "times faster",
)


def table(result: Mapping[str, Any]) -> str:
    """Return the table of a run, a line on what was run above it and the reasons of those that don't run below."""
    before = result["reference"]["bytes"]
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD))]
    missing = []
    for entry in result["peers"]:
        if entry["why"]:
            missing.append(f"- {entry['peer']} does not run: {entry['why']}")
        if entry["seeds"]:
            lines.append(_row(_cells(entry, before)))
    lines.insert(
        2, _row(["float32", "ort", f"{before / 1e6:.2f}", "1.00x", "", "", "", "", _speeds(result["latency"])])
    )
    return "\n".join([_about(result), "", *lines, *([""] if missing else []), *missing])


def _about(result: Mapping[str, Any]) -> str:
    return (
        f"{result['name']} ({result['model']}), {result['height']}x{result['width']} px, "
        f"{result['calibration']} calibration photos, {result['tested']} test photos of {', '.join(result['data'])}, "
        f"seeds {', '.join(map(str, result['seeds']))}, {result['machine']['threads']} threads, "
        f"{result['machine']['cpu']}; float32 loss {result['reference']['loss']:.5f}, "
        f"dead masks {result['reference']['dead']}; times faster: than float32 in ONNX Runtime, in turns"
    )


def _cells(entry: Mapping[str, Any], before: int) -> list[str]:
    seeds: Sequence[Mapping[str, Any]] = entry["seeds"]
    size = _mean(seed["bytes"] for seed in seeds)
    return [
        entry["peer"],
        seeds[0]["runtime"],
        f"{size / 1e6:.3f}",
        f"{before / size:.2f}x",
        f"{_mean(seed['seconds'] for seed in seeds):.1f}",
        _interval(seeds, "dmae", lambda value: f"{value:.5f}"),
        _interval(seeds, "loss_change", lambda value: f"{100 * value:+.2f} %"),
        str(max(seed["dead"] for seed in seeds)),
        _speeds(entry["latency"]),
    ]


def _mean(values: Any) -> float:
    numbers = list(values)
    return float(sum(numbers) / len(numbers))


def _interval(seeds: Sequence[Mapping[str, Any]], name: str, text: Any) -> str:
    """Mean over seeds, with the lowest and highest end of their intervals; each seed's own where there are several."""
    found = [seed[name] for seed in seeds]
    said: str = text(_mean(each["value"] for each in found))
    if all(each["low"] is not None for each in found):
        said += f" ({text(min(each['low'] for each in found))} .. {text(max(each['high'] for each in found))})"
    if len(found) > 1:
        said += f" [{', '.join(text(each['value']) for each in found)}]"
    return said


def _speeds(latency: Mapping[str, Mapping[str, Any]]) -> str:
    found = []
    for runtime, each in latency.items():
        if "ratio" in each:
            ratio = each["ratio"]
            found.append(f"{runtime} {ratio['value']:.2f}x ({ratio['low']:.2f} .. {ratio['high']:.2f})")
        else:
            found.append(f"{runtime}: {each['why']}")
    return "; ".join(found)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
