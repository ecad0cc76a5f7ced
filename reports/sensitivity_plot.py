"""Bars of what rounding each layer alone does to the picture, worst first, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reports import words
from reports.lineage import Role
from reports.plots import STYLE

MOST = 30  # layers drawn; the rest costs less than any of these
_WIDTH, _DPI = 5.6, 200
_BAR, _AROUND = 0.19, 1.45  # inches a layer takes, and everything that is no bar
_COLORS = 64  # of the file: a third of the bytes of one in true colour
_NAME = 32  # characters of a name that are shown


@dataclass(frozen=True)
class Bar:
    """One layer: root mean square change of the picture's values when it alone is rounded; whether it stays in float.

    ``error`` is above 0.
    """

    name: str
    error: float
    kept: bool = False


@dataclass(frozen=True)
class Costs:
    """What is drawn of a model: at most ``MOST`` bars, the worst first, of ``layers`` that were measured."""

    title: str
    model: str
    bars: tuple[Bar, ...]
    layers: int

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return round(_WIDTH * _DPI), round(self.inches * _DPI)

    @property
    def inches(self) -> float:
        """Its height."""
        return _AROUND + _BAR * len(self.bars)

    @property
    def counted(self) -> str:
        """How many of all layers these are."""
        shown = len(self.bars)
        return words.many(shown, "layer") if shown == self.layers else f"the {shown} worst of {self.layers} layers"

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        told = "; ".join(f"{b.name}: {words.tiny(b.error)}{', kept in float' if b.kept else ''}" for b in self.bars)
        what = "Estimated RMS change of the picture when one layer alone is rounded"
        return f"{self.title}: {self.model}. {what}, {self.counted}. {told}."


def draw_costs(costs: Costs, path: Path, *, colors: dict[str, str]) -> None:
    """Write the bars as a PNG, those kept in float hatched and in a colour of their own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from PIL import Image

    figure = Figure(figsize=(_WIDTH, costs.inches), dpi=_DPI, facecolor=colors["ground"], layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colors["ground"])
    low, high = _ends(costs.bars)
    halo = [withStroke(linewidth=2, foreground=colors["ground"])]
    for place, bar in enumerate(costs.bars):
        axes.barh(place, bar.error - low, left=low, height=0.72, zorder=3, **_look(bar.kept, colors))
        axes.annotate(words.tiny(bar.error), (bar.error, place), xytext=(3, 0), textcoords="offset points", va="center",
                      fontsize=7, color=colors["soft"], path_effects=halo, zorder=4)  # fmt: skip
    _dress(axes, costs, (low, high), colors)
    _legend(figure, costs.bars, colors)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    drawn.quantize(_COLORS, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def _ends(bars: Sequence[Bar]) -> tuple[float, float]:
    """Where a logarithmic axis starts and ends: the least bar is still seen, the longest has room for its number."""
    least, most = (pick(bar.error for bar in bars) for pick in (min, max))
    start = min(least / 1.6, most / 10)
    return start, most * (most / start) ** 0.16


def _look(kept: bool, colors: dict[str, str]) -> dict[str, Any]:
    role: Role = "train" if kept else "quantize"
    color = colors.get(role, STYLE[role][0])
    hatched = {"facecolor": colors["ground"], "edgecolor": color, "hatch": "//////", "linewidth": 0.9}
    return hatched if kept else {"facecolor": color, "edgecolor": color, "linewidth": 0.9}


def _dress(axes: Any, costs: Costs, ends: tuple[float, float], colors: dict[str, str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_title(f"{costs.title}\n", loc="left", fontsize=11, fontweight="bold", color=colors["ink"])
    axes.annotate(f"{_short(costs.model)}: {costs.counted}", (0, 1), xycoords="axes fraction", xytext=(0, 5),
                  textcoords="offset points", fontsize=9, color=colors["soft"], parse_math=False)  # fmt: skip
    axes.set_xlabel("estimated RMS change of the picture, log scale", color=colors["soft"], fontsize=9.5)
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    decades = math.log10(ends[1] / ends[0])
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.2 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(
        lambda value, _: words.tiny(value).replace(".0e", "e") if value < 9e-4 else f"{value:g}"
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(len(costs.bars) - 0.4, -0.6)  # the worst on top
    labels = axes.set_yticks(range(len(costs.bars)), [_short(bar.name) for bar in costs.bars])
    for tick in labels:
        for label in (tick.label1, tick.label2):
            label.set_parse_math(False)
    axes.grid(axis="x", color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=colors["soft"], labelsize=9, length=0, which="both")
    axes.tick_params(axis="y", colors=colors["ink"], labelsize=7.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(colors["grid"])


def _short(name: str) -> str:
    """A name as it fits: what tells layers apart stands at both ends."""
    half = (_NAME - 1) // 2
    return name if len(name) <= _NAME else f"{name[:half]}…{name[-half:]}"


def _legend(figure: Any, bars: Sequence[Bar], colors: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    there = sorted({bar.kept for bar in bars})
    handles = [Patch(label="kept in float" if kept else "rounded", **_look(kept, colors)) for kept in there]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5,
                  labelcolor=colors["soft"], handletextpad=0.5, columnspacing=1.4)  # fmt: skip
