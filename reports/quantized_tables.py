"""Small tables of how one model was quantized: what was tried and searched, what a layer gives back, what was left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import words

NAMED = 4  # layers named in a cell of the table that is always seen
_LISTED = 60  # in one that folds away
_OFF = (False, None, "none", "nearest")
_ON = {
    ("bias", "True"): "bias correction",
    ("bias", "analytic"): "bias correction",
    ("bias", "measured"): "measured bias correction",
    ("equalize", "True"): "equalized channels",
    ("adaround", "True"): "learned rounding",
    ("rounding", "adaround"): "learned rounding",
    ("rounding", "compensate"): "compensated rounding",
}
_HEADS = {"clip": "Ranges", "bias": "Bias correction", "equalize": "Equalized channels", "adaround": "Learned rounding"}


@dataclass(frozen=True)
class Grid:
    """A small table of text: its headings, and rows whose first cell heads the row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def share(value: float, unit: str = " %") -> str:
    """A share as a signed percentage with two decimals: limits are tenths of a percent."""
    if not math.isfinite(value):
        return f"{value:g}"
    text = f"{100 * value:+.2f}".replace("-", "−")
    return f"{'0.00' if text[1:] == '0.00' else text}{unit}"


def switched_on(settings: Mapping[str, Any]) -> list[str]:
    """Name what is on, the way ranges are found first."""
    clip = settings.get("clip")
    named = [_ON.get((name, str(value)), f"{name.replace('_', ' ')} {value}")
             for name, value in settings.items() if name != "clip" and value not in _OFF]  # fmt: skip
    return [*([f"{clip} ranges"] if clip else []), *named]


def given_back(probed: Sequence[Mapping[str, Any]]) -> Grid | None:
    """What keeping each of the worst layers alone in float does; None where that was not measured."""
    told = [each for each in probed if each.get("loss_given_back") is not None]
    heads = ("Layer in float", "Operator", "RMS change", "Loss given back", "Distance given back")
    rows = tuple(
        (str(each["name"]), str(each.get("operator") or ""), words.tiny(each["error"]), share(each["loss_given_back"]),
         _difference(each.get("distance_given_back")))
        for each in told
    )  # fmt: skip
    return Grid(heads, rows) if rows else None


def _difference(value: float | None) -> str:
    return "–" if value is None else words.signed(value)


def tried(lines: Sequence[Mapping[str, Any]]) -> Grid:
    """Settings in the order they were tried, how each did, and whether it was kept."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    heads = tuple(_HEADS.get(name, name.replace("_", " ").capitalize()) for name in names)
    return Grid(heads, tuple(tuple(_setting(name, line.get(name)) for name in names) for line in lines))


def _setting(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return ("✓ kept" if value else "no") if name == "kept" else ("on" if value else "off")
    if name == "distance":
        return words.tiny(value)
    return words.number(value) if isinstance(value, float) else str(value)


def search(steps: Sequence[Mapping[str, Any]], key: str, head: str) -> Grid:
    """Steps of a search over layers: how many (under ``key``), the loss's change, the distance."""
    heads = (head, "Loss", "Distance")
    changes = [(each.get("loss_increase", math.nan), each.get("distance", math.nan)) for each in steps]
    counts = [_counted(each.get(key)) for each in steps]
    told = [(share(change), words.tiny(apart)) for change, apart in changes]
    return Grid(heads, tuple((count, *numbers) for count, numbers in zip(counts, told, strict=True)))


def _counted(layers: Any) -> str:
    """Some searches keep names, some only how many there are."""
    return str(len(layers) if isinstance(layers, list) else layers)


def by_reason(nodes: Mapping[str, str]) -> Grid:
    """Nodes by the reason they share."""
    shared: dict[str, list[str]] = {}
    for name, reason in nodes.items():
        shared.setdefault(str(reason), []).append(str(name))
    rows = tuple((reason, words.named(names, _LISTED), str(len(names))) for reason, names in shared.items())
    return Grid(("Why", "Which", "Count"), rows)
