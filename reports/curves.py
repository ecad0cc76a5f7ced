"""Curves of trainings as SVG, for light and dark pages: losses by epoch, a metric by epoch and against the loss."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.plots import DARK, LIGHT

# colours that the colour-blind tell apart (Okabe & Ito 2008), on light and on dark ground; a marker each beside it
COLORS = (("#0072b2", "#4aa8dd"), ("#d55e00", "#e8863c"), ("#009e73", "#2fc79a"), ("#cc79a7", "#d994ba"),
          ("#b8860b", "#d9a93a"), ("#6f6c66", "#a3a09a"))  # fmt: skip
MARKERS = "os^Dv*"
BINS = 60  # points of a training curve: the mean of the steps in each
_SIZE = (5.6, 3.6)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One run: (x, y) of every training step, drawn thin and smoothed, and of every look at the validation split."""

    name: str
    steps: Points
    looks: Points


@dataclass(frozen=True)
class Drawn:
    """A plot: what it shows in words, and itself as an address in both colour schemes."""

    alt: str
    light: str
    dark: str


def lines(runs: Sequence[Curve], title: str, label: str) -> Drawn:
    """Draw values over epochs; logarithmic where losses span more than a factor of twenty."""
    values = [y for run in runs for _, y in (*smooth(run.steps), *run.looks)]

    def paint(axes: Any, colors: dict[str, str], dark: bool) -> None:
        for k, run in enumerate(runs):
            color, marker = COLORS[k % len(COLORS)][dark], MARKERS[k % len(MARKERS)]
            if run.steps:
                axes.plot(*zip(*smooth(run.steps), strict=True), color=color, linewidth=1, alpha=0.55)
            axes.plot(*zip(*run.looks, strict=True), color=color, linewidth=1.8, marker=marker, markersize=4,
                      label=run.name)  # fmt: skip
        axes.set_xlabel("epoch", color=colors["soft"], fontsize=9.5)
        axes.set_ylabel(label, color=colors["soft"], fontsize=9.5)
        if runs[0].steps and max(values) > 20 * min(values) > 0:
            axes.set_yscale("log")
            for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                which(lambda value, _: f"{value:g}")

    last = "; ".join(f"{run.name}: {run.looks[-1][1]:.4g} at epoch {run.looks[-1][0]:.3g}" for run in runs if run.looks)
    return Drawn(f"{title}. At the end, {last}.", *_both(paint, title))


def cloud(runs: Sequence[Curve], title: str, label: str, marks: Sequence[tuple[float, str]]) -> Drawn:
    """Draw (loss, metric) of every look, and upright lines at the losses of ``marks`` with their names."""

    def paint(axes: Any, colors: dict[str, str], dark: bool) -> None:
        for k, run in enumerate(runs):
            if run.looks:
                axes.scatter(*zip(*run.looks, strict=True), s=22, color=COLORS[k % len(COLORS)][dark], alpha=0.85,
                             marker=MARKERS[k % len(MARKERS)], label=run.name, zorder=3)  # fmt: skip
        for k, (loss, name) in enumerate(marks):
            axes.axvline(loss, color=colors["front"], linewidth=1, linestyle=(0, (4, 2)))
            axes.annotate(name, (loss, 1), xycoords=("data", "axes fraction"), xytext=(2, -9 - 9 * k), fontsize=8,
                          textcoords="offset points", color=colors["front"])  # fmt: skip
        axes.set_xlabel("validation loss  (lower is better)", color=colors["soft"], fontsize=9.5)
        axes.set_ylabel(f"{label}  (higher is better)", color=colors["soft"], fontsize=9.5)

    told = ", ".join(f"{name} of the best at a loss of {loss:.3g}" for loss, name in marks)
    return Drawn(f"{title}. {told}.", *_both(paint, title))


def smooth(points: Points) -> Points:
    """Average neighbours so that at most ``BINS`` points remain."""
    if len(points) <= BINS:
        return points
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in np.array_split(np.array(points), BINS)]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers about ``low`` to ``high``, ``count`` at most."""
    from matplotlib.ticker import MaxNLocator

    return [float(f"{value:.6g}") for value in MaxNLocator(count).tick_values(low, high)]


def _both(paint: Callable[[Any, dict[str, str], bool], None], title: str) -> tuple[str, str]:
    return _svg(paint, title, LIGHT, dark=False), _svg(paint, title, DARK, dark=True)


def _svg(paint: Callable[[Any, dict[str, str], bool], None], title: str, colors: dict[str, str], *, dark: bool) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, facecolor=colors["ground"], layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(facecolor=colors["ground"])
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=colors["ink"], parse_math=False)
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors["soft"], labelsize=9, length=0, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors["grid"])
    paint(axes, colors, dark)
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=colors["soft"])
    for text in legend.get_texts():
        text.set_parse_math(False)
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": title}):  # the same runs give the same page
        figure.savefig(stream, format="svg", facecolor=colors["ground"], metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
