"""Plots of what a model costs against what it loses, with the Pareto front, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from reports.frame import pareto
from reports.lineage import ROLES, Role

STYLE: dict[Role, tuple[str, str]] = {  # colours that the colour-blind tell apart (Okabe & Ito 2008), marker
    "teacher": ("#6f6c66", "*"),
    "train": ("#0072b2", "o"),
    "quantize": ("#d55e00", "s"),
    "distill": ("#009e73", "^"),
    "prune": ("#cc79a7", "D"),
    "other": ("#b8860b", "P"),
}
LIGHT = {"ground": "#ffffff", "ink": "#1d1c1a", "soft": "#6b6862", "grid": "#e7e4dd", "front": "#0b6e69"}
DARK = {"ground": "#1b1d20", "ink": "#ebe8e2", "soft": "#a3a09a", "grid": "#33363b", "front": "#4cc2b8",
        "teacher": "#a3a09a", "train": "#4aa8dd"}  # fmt: skip
_WIDTH, _HEIGHT, _DPI = 5.6, 4.1, 200
_PLACES = ((9, 0, "left"), (-9, 0, "right"), (0, 10, "center"), (0, -12, "center"), (9, 10, "left"), (-9, 10, "right"),
           (9, -12, "left"), (-9, -12, "right"))  # fmt: skip  # points around a marker where its name may stand


@dataclass(frozen=True)
class Point:
    """One model: cost and loss, the ends of its loss's interval against the teacher, where there are any."""

    name: str
    role: Role
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    rejected: bool = False


def scatter(points: Sequence[Point], path: Path, *, xlabel: str, title: str, colors: dict[str, str]) -> None:
    """Draw the points and their Pareto front, rejected ones hollow and off the front.

    Whiskers are the 95 % interval of the difference to the teacher.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=colors["ground"], layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colors["ground"])
    _dress(axes, points, xlabel, title, colors)
    _front(axes, points, colors)
    for point in points:
        _mark(axes, point, colors)
    _legend(axes, points, colors)
    canvas.draw()
    _name(axes, points, colors)
    figure.savefig(path, format="png", facecolor=colors["ground"], metadata={"Software": None})


def _dress(axes: Any, points: Sequence[Point], xlabel: str, title: str, colors: dict[str, str]) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=colors["ink"])
    axes.set_xlabel(xlabel, color=colors["soft"], fontsize=9.5)
    axes.set_ylabel("loss  (lower is better)", color=colors["soft"], fontsize=9.5)
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors["soft"], labelsize=9, length=0, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors["grid"])
    values = [point.x for point in points]
    if max(values) > 5 * min(values) > 0:
        _logarithmic(axes, min(values), max(values))
    else:
        room = max(0.22 * (max(values) - min(values)), 0.12 * max(values))  # no zoom into a difference of a percent
        axes.set_xlim(min(values) - room, max(values) + room)
    axes.margins(y=0.2)


def _logarithmic(axes: Any, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low / 2.6, high * 2.3)
    ticks = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _front(axes: Any, points: Sequence[Point], colors: dict[str, str]) -> None:
    valid = [(point.x, point.y) for point in points if not point.rejected]
    front = pareto(pd.DataFrame(valid, columns=["x", "y"]), "x", "y")
    xs, ys = list(front["x"]), list(front["y"])
    axes.plot(xs, ys, drawstyle="steps-post", color=colors["front"], linewidth=1.4, linestyle=(0, (4, 2)), zorder=2,
              label="Pareto front")  # fmt: skip


def _mark(axes: Any, point: Point, colors: dict[str, str]) -> None:
    color, marker = _style(point.role, colors)
    if point.low is not None and point.high is not None:
        axes.vlines(point.x, point.low, point.high, color=color, linewidth=1.6, alpha=0.55, zorder=3)
    axes.scatter([point.x], [point.y], s=150 if marker == "*" else 62, marker=marker, zorder=4, linewidth=1.6,
                 facecolor="none" if point.rejected else color, edgecolor=color)  # fmt: skip


def _style(role: Role, colors: dict[str, str]) -> tuple[str, str]:
    color, marker = STYLE[role]
    return colors.get(role, color), marker


def _legend(axes: Any, points: Sequence[Point], colors: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for role in (role for role in ROLES if any(point.role == role for point in points)):
        color, marker = _style(role, colors)
        handles.append(Line2D([], [], linestyle="", marker=marker, color=color, markersize=7, label=ROLES[role]))
    front, _ = axes.get_legend_handles_labels()
    axes.figure.legend(handles=handles + front, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5,
                       labelcolor=colors["soft"], handletextpad=0.4, columnspacing=1.4)  # fmt: skip


def _name(axes: Any, points: Sequence[Point], colors: dict[str, str]) -> None:
    """Write each name where it covers least: of markers, whiskers, the front, other names, and beyond the frame."""
    from matplotlib.patheffects import withStroke

    frame = axes.get_window_extent()
    taken = [*_segments(axes), *(box for point in points for box in _around(axes, point))]
    halo = [withStroke(linewidth=2.5, foreground=colors["ground"])]
    for point in points:
        text = point.name if len(point.name) <= 28 else point.name[:27] + "…"
        note = axes.annotate(text, (point.x, point.y), xytext=(0, 0), textcoords="offset points", va="center",
                             fontsize=9, parse_math=False, color=colors["ink"], zorder=5)  # fmt: skip
        note.set_path_effects(halo)
        costs = []
        for place in _PLACES:
            box = _put(note, *place)
            outside = box.width * box.height - _overlap(box, frame)
            costs.append(sum(_overlap(box, other) for other in taken) + 3 * outside)
        taken.append(_put(note, *_PLACES[costs.index(min(costs))]))


def _around(axes: Any, point: Point) -> list[Any]:
    """Boxes around a marker and its whisker, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((point.x, point.y))
    boxes = [Bbox.from_extents(x - 14, y - 14, x + 14, y + 14)]
    if point.low is not None and point.high is not None:
        (_, low), (_, high) = axes.transData.transform([(point.x, point.low), (point.x, point.high)])
        boxes.append(Bbox.from_extents(x - 3, low, x + 3, high))
    return boxes


def _segments(axes: Any) -> list[Any]:
    """Boxes around the pieces of the stepped front, in pixels."""
    from matplotlib.transforms import Bbox

    corners = [axes.transData.transform(point) for point in axes.lines[0].get_xydata()]
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        boxes += [
            Bbox.from_extents(x0, y0 - 4, x1, y0 + 4),
            Bbox.from_extents(x1 - 4, min(y0, y1), x1 + 4, max(y0, y1)),
        ]
    return boxes


def _put(note: Any, dx: float, dy: float, side: str) -> Any:
    """Move a name and return the box it takes, in pixels."""
    note.set_position((dx, dy))
    note.set_horizontalalignment(side)
    return note.get_window_extent()


def _overlap(a: Any, b: Any) -> float:
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(wide * high) if wide > 0 and high > 0 else 0.0
