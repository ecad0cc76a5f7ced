"""The bytes of an ONNX file as a treemap: area for bytes, colour for what they are, a label where one fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from compress.core.whole import written_whole
from compress.jobs.inspect_model import Report
from compress.kit.ship.anatomy import Anatomy, Tensor

_SIDES = (1600, 1000)  # pixels
_READABLE = 7.9  # pixels a letter is high at least
# by how many bits a value takes, dark to light; what is not named here is drawn in the last colour
_COLOURS = {
    "float32": "#2f5d8a", "float64": "#1d3b58", "float16": "#3f88a3", "bfloat16": "#3f9484", "int8": "#c8671b",
    "uint8": "#a8861d", "int4": "#b8433a", "uint4": "#9c3f63", "int32": "#7a6aa8", "int64": "#5f6f9a",
}  # fmt: skip
_OTHER, _GRAPH = "#6f7c4a", "#8a8a8a"
_BREAKS = re.compile(r"(?<=[a-z_\d])[./](?=[A-Za-z])|(?<=quantization) ")  # not the dot of a number
_LEAST = 0.0012  # share of the file below which tensors are drawn together
_SEEN = 0.0001  # share of the file that makes a rectangle of 12 pixels a side
_GRAPH_NAME = "graph: nodes, names"


@dataclass(frozen=True)
class Box:
    """A rectangle: left, bottom, width and height."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Divide a rectangle into ones of the given areas, as square as it goes.

    Row by row along the shorter side, a row taking the next size as long as its worst aspect gets better (Bruls,
    Huizing, van Wijk 2000, "Squarified Treemaps", section 3).

    Args:
        sizes: Above 0, largest first; they are scaled to fill the box.
        box: What to fill.

    Returns:
        A box for each size, in the same order.
    """
    scale = box.width * box.height / sum(sizes) if sizes else 0.0
    areas, boxes = [size * scale for size in sizes], list[Box]()
    while areas:
        short = min(box.width, box.height)
        count = 1
        while count < len(areas) and _worst(areas[: count + 1], short) <= _worst(areas[:count], short):
            count += 1
        row, areas = areas[:count], areas[count:]
        box, placed = _lay(row, box)
        boxes += placed
    return boxes


def _worst(row: Sequence[float], short: float) -> float:
    """The largest aspect ratio in a row along a side of that length."""
    depth = sum(row) / short
    return max(max(area / depth**2, depth**2 / area) for area in row)


def _lay(row: Sequence[float], box: Box) -> tuple[Box, list[Box]]:
    """Lay a row along the shorter side; return what is left of the box, and the row."""
    placed, total = [], sum(row)
    upright = box.height <= box.width
    depth = total / (box.height if upright else box.width)
    start = 0.0
    for area in row:
        length = area / depth
        if upright:
            placed.append(Box(box.x, box.y + start, depth, length))
        else:
            placed.append(Box(box.x + start, box.y, length, depth))
        start += length
    if upright:
        return Box(box.x + depth, box.y, max(box.width - depth, 0.0), box.height), placed
    return Box(box.x, box.y + depth, box.width, max(box.height - depth, 0.0)), placed


@dataclass(frozen=True)
class Tile:
    """One rectangle to draw: its label line by line, its bytes, and what it is coloured as."""

    lines: tuple[str, ...]
    bytes: int
    kind: str


def tiles(anatomy: Anatomy) -> list[Tile]:
    """Return what is drawn, largest first: each large tensor, small ones together by role and type, and the graph."""
    least = _LEAST * anatomy.file_bytes
    made = [_tile(tensor) for tensor in anatomy.tensors if tensor.bytes >= least]
    small = [tensor for tensor in anatomy.tensors if 0 < tensor.bytes < least]
    for role, dtype in sorted({(tensor.role, tensor.dtype) for tensor in small}):
        group = [tensor for tensor in small if (tensor.role, tensor.dtype) == (role, dtype)]
        size = sum(tensor.bytes for tensor in group)
        made.append(Tile((f"{len(group)} small", role, _size(size)), size, dtype))
    overhead = sum(anatomy.overhead.values())
    if overhead:
        made.append(Tile(("graph", _size(overhead)), overhead, _GRAPH_NAME))
    return sorted(made, key=lambda tile: -tile.bytes)


def draw(report: Report, path: Path) -> None:
    """Write the picture, 1600 x 1000 pixels, whole or not at all."""
    anatomy, artifact = report.anatomy, report.subject.artifact
    shown = tiles(anatomy)
    figure = Figure(figsize=(_SIDES[0] / 100, _SIDES[1] / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    title = (
        f"{artifact.name}: {_size(anatomy.file_bytes)}; what it learned takes {_size(anatomy.float32_bytes)} in "
        f"float32, {anatomy.real:.2f}x"
    )
    figure.text(0.012, 0.955, title, fontsize=19, weight="bold", color="#222222")
    axes = figure.add_axes((0.012, 0.015, 0.976, 0.875))
    width, height = _SIDES[0] * 0.976, _SIDES[1] * 0.875
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for tile, box in zip(shown, squarify([tile.bytes for tile in shown], Box(0, 0, width, height)), strict=True):
        border = 1.2 if min(box.width, box.height) > 12 else 0.4
        place = (box.x, box.y), box.width, box.height
        axes.add_patch(Rectangle(*place, facecolor=_colour(tile.kind), edgecolor="white", linewidth=border))
        _label(axes, tile, box)
    figure.legend(handles=_legend(shown, anatomy.file_bytes), loc="upper left", bbox_to_anchor=(0.006, 0.952), ncols=6,
                  frameon=False, fontsize=12, handlelength=1.2, columnspacing=1.8)  # fmt: skip
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _tile(tensor: Tensor) -> Tile:
    name = tensor.name if "." in tensor.name or not tensor.layer else tensor.layer
    name = name.removeprefix("module.").removesuffix(".weight").removeprefix("node_")
    shape = "x".join(map(str, tensor.shape))
    role = (tensor.role,) if tensor.role != "weights" else ()
    return Tile((name, *role, shape, _size(tensor.bytes)), tensor.bytes, tensor.dtype)


def _colour(kind: str) -> str:
    return _GRAPH if kind == _GRAPH_NAME else _COLOURS.get(kind, _OTHER)


def _legend(shown: Sequence[Tile], whole: int) -> list[Patch]:
    sizes: dict[str, int] = {}
    for tile in shown:
        sizes[tile.kind] = sizes.get(tile.kind, 0) + tile.bytes
    # what can't be seen needs no explanation
    order = sorted((kind for kind in sizes if sizes[kind] >= _SEEN * whole), key=lambda kind: -sizes[kind])
    return [
        Patch(color=_colour(kind), label=f"{kind}  {_size(sizes[kind])}, {sizes[kind] / whole:.1%}") for kind in order
    ]


def _size(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _label(axes: Any, tile: Tile, box: Box) -> None:
    """Write as many lines as fit, as large as they fit, the name first; nothing where not even that does."""
    for count in range(len(tile.lines), 0, -1):
        whole = tile.lines[:count]
        # names are paths: broken at their dots they fit into narrow boxes
        broken = [part for line in whole for part in _BREAKS.split(line)]
        pixels, lines = max((_letter(lines, box), list(lines)) for lines in (whole, broken))
        if pixels >= _READABLE:
            axes.text(box.x + box.width / 2, box.y + box.height / 2, "\n".join(lines), fontsize=pixels * 0.72,
                      ha="center", va="center", color="white", linespacing=1.15)  # fmt: skip
            return


def _letter(lines: Sequence[str], box: Box) -> float:
    """How many pixels high letters may be so that lines fit: one is 0.6 as wide as high, a line 1.25 as high."""
    wide = 0.86 * box.width / (0.6 * max(map(len, lines)))
    return min(wide, 0.86 * box.height / (1.25 * len(lines)), 22.0)
