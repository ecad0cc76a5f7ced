"""How many channels every layer of a pruned network kept, as one compact strip of bars, for light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports import words
from reports.plots import STYLE

_WIDTH, _HEIGHT, _DPI = 6.0, 2.1, 190
_TOLD = 8  # layers that lost most, told in words


@dataclass(frozen=True)
class Layer:
    """Channels of one layer before and after; whether it had to stay."""

    name: str
    before: int
    after: int
    stays: bool = False


@dataclass(frozen=True)
class Kept:
    """What is drawn of a model: all its layers, in the order of the network."""

    model: str
    layers: tuple[Layer, ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return round(_WIDTH * _DPI), round(_HEIGHT * _DPI)

    @property
    def alt(self) -> str:
        """What it shows, in words: the layers that lost the largest share."""
        cut = sorted((a for a in self.layers if a.after < a.before), key=lambda a: a.after / a.before)
        told = "; ".join(f"{layer.name}: {layer.before} to {layer.after}" for layer in cut[:_TOLD])
        whole = len(self.layers) - len(cut)
        return (f"Channels kept in each of {words.many(len(self.layers), 'layer')} of {self.model}; {whole} lost none"
                f"{'. Lost most: ' + told if told else ''}.")  # fmt: skip


def draw_kept(kept: Kept, path: Path, *, colors: dict[str, str]) -> None:
    """Write the strip as a PNG: a bar a layer, its height what it had, the filled part what it kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=colors["ground"], layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colors["ground"])
    places = range(len(kept.layers))
    color = colors.get("prune", STYLE["prune"][0])
    axes.bar(places, [a.before for a in kept.layers], width=0.84, color=colors["grid"], zorder=2, label="taken out")
    for stays, shade, label in ((False, color, "kept"), (True, colors["soft"], "had to stay whole")):
        chosen = [(place, a.after) for place, a in zip(places, kept.layers, strict=True) if a.stays == stays]
        if chosen:
            across, up = zip(*chosen, strict=True)
            axes.bar(across, up, width=0.84, color=shade, zorder=3, label=label)
    axes.set_title("Channels each layer kept", loc="left", fontsize=11, fontweight="bold", color=colors["ink"])
    axes.set_xlabel("layers, from the picture to the output", color=colors["soft"], fontsize=9)
    axes.set_ylabel("channels", color=colors["soft"], fontsize=9)
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(kept.layers) - 0.3)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y", color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors["soft"], labelsize=8.5, length=0, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colors["grid"])
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=colors["soft"],
                  handletextpad=0.5, columnspacing=1.4)  # fmt: skip
    figure.savefig(path, format="png", facecolor=colors["ground"], metadata={"Software": None})
