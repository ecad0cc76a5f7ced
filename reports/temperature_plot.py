"""Loss by temperature, the teacher's and that of the network trained alone as lines, for light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reports import words
from reports.lineage import Role
from reports.plots import STYLE

_WIDTH, _HEIGHT, _DPI = 5.6, 3.4, 200
_DASHES: dict[Role, tuple[int, tuple[int, ...]]] = {"teacher": (0, (1, 2)), "train": (0, (5, 3))}


@dataclass(frozen=True)
class Sweep:
    """One student, teacher and recipe at several temperatures.

    ``points``: (T, loss), one for each seed, by rising T. ``lines``: role, name and loss of what it is set beside.
    ``where``: which pictures, where these are not the page's.
    """

    anchor: str
    student: str
    teacher: str
    recipe: str
    points: tuple[tuple[float, float], ...]
    lines: tuple[tuple[Role, str, float], ...]
    seeds: int = 1
    where: str = ""

    @property
    def means(self) -> list[tuple[float, float]]:
        """The mean loss over seeds at every T."""
        return [(T, fmean(loss for at, loss in self.points if at == T)) for T in sorted({T for T, _ in self.points})]

    @property
    def best(self) -> tuple[float, float]:
        """The T of the least mean loss, and that."""
        return min(self.means, key=lambda point: point[1])

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return round(_WIDTH * _DPI), round(_HEIGHT * _DPI)

    @property
    def title(self) -> str:
        """What it is of."""
        return f"{self.student} from {self.teacher} by {self.recipe}"

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        told = "; ".join(f"T = {T:g}: {words.number(loss)}" for T, loss in self.means)
        beside = "".join(f"; {name}: {words.number(loss)}" for _, name, loss in self.lines)
        over = f", mean of {self.seeds} seeds" if self.seeds > 1 else ""
        return f"Loss by temperature, {self.title}{over}{', ' + self.where if self.where else ''}. {told}{beside}."


def draw_sweep(sweep: Sweep, path: Path, *, colors: dict[str, str]) -> None:
    """Write the plot as a PNG: T on a logarithmic axis, a dot for each seed, a line through their means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=colors["ground"], layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colors["ground"])
    color = colors.get("distill", STYLE["distill"][0])
    axes.plot(*zip(*sweep.means, strict=True), color=color, linewidth=1.8, marker="^", markersize=7, zorder=4,
              label="distilled" + (", mean of seeds" if sweep.seeds > 1 else ""))  # fmt: skip
    if sweep.seeds > 1:
        across, up = zip(*sweep.points, strict=True)
        axes.scatter(across, up, s=16, color=color, alpha=0.55, zorder=3)
    for role, name, loss in sweep.lines:
        axes.axhline(loss, color=colors.get(role, STYLE[role][0]), linewidth=1.6, linestyle=_DASHES[role], label=name)
    _dress(axes, sweep, colors)
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=colors["soft"])
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, format="png", facecolor=colors["ground"], metadata={"Software": None})


def _dress(axes: Any, sweep: Sweep, colors: dict[str, str]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_title("Loss by temperature\n", loc="left", fontsize=11, fontweight="bold", color=colors["ink"])
    title = sweep.title if len(sweep.title) <= 64 else sweep.title[:63] + "…"
    axes.annotate(title, (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", fontsize=9,
                  color=colors["soft"], parse_math=False)  # fmt: skip
    axes.set_xlabel("temperature T, log scale", color=colors["soft"], fontsize=9.5)
    axes.set_ylabel("loss  (lower is better)", color=colors["soft"], fontsize=9.5)
    known = [T for T, _ in sweep.means]
    axes.set_xscale("log")
    axes.set_xlim(known[0] / 1.25, known[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(known))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axes.margins(y=0.15)
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors["soft"], labelsize=9, length=0, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors["grid"])
