"""Lay the report out and write it: index.html, report.md, report.csv and the PNGs, each file whole."""

from __future__ import annotations

import base64
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from compress.core.store import Store
from compress.core.types import Artifact, Row
from compress.core.whole import write_whole, written_whole
from reports import provenance, words
from reports.channels_plot import draw_kept
from reports.compare import Setting
from reports.export import long_table
from reports.pages import Block, Page, Section, page_of
from reports.pictures import draw
from reports.plots import DARK, LIGHT, Point, scatter
from reports.sensitivity_plot import draw_costs
from reports.temperature_plot import draw_sweep


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    html: Path
    markdown: Path
    csv: Path
    png: tuple[Path, ...]


@dataclass(frozen=True)
class Plot:
    """A plot: its file, what it shows in words, itself as an address in both colour schemes, its size in pixels."""

    file: str
    alt: str
    light: str
    dark: str
    width: int = 1120
    height: int = 820


@dataclass(frozen=True)
class Drawing:
    """A plot to be: what it shows in words, width and height in pixels, what paints it into a file in given colours."""

    alt: str
    pixels: tuple[int, int]
    paint: Callable[..., None]


def write_report(store: Store, artifacts: Sequence[Artifact], rows: Sequence[Row], out: Path, *, title: str,
                 chosen: frozenset[str] = frozenset()) -> Written:  # fmt: skip
    """Build the page and write every file of it under ``out``.

    Args:
        store: Where the pictures lie.
        artifacts: All of the store, oldest first.
        rows: All of the store, oldest first; at least one of a model shown.
        out: Folder; made when it is not there.
        title: Of the page.
        chosen: Ids of the models to show beside their teacher; empty for all.
    """
    page = page_of(store, artifacts, rows, title=title, chosen=chosen)
    blocks = [block for section in page.sections for block in section.blocks]
    png: list[Path] = []
    plots: dict[str, list[Plot]] = {}
    strips: dict[str, str] = {}
    for position, block in enumerate(blocks):
        tail = f"-{safe(block.anchor)}" if position else ""
        plots[block.anchor] = _plots(block, block.settings, out, tail)
        if block.web:
            plots[f"{block.anchor}-web"] = _plots(block, block.web, out, tail, web=True)
        png += [out / plot.file for key in (block.anchor, f"{block.anchor}-web") for plot in plots.get(key, ())]
        if block.strip is not None:
            strips[block.anchor] = f"strip{tail}.png"
            png.append(out / strips[block.anchor])
            with written_whole(png[-1]) as temporary:
                draw(block.strip, temporary)
    for section in page.sections:
        for anchor, name, drawing in _drawings(section):
            plots[anchor] = [_drawn(drawing, out / name)]
            png.append(out / name)
    written = Written(out / "index.html", out / "report.md", out / "report.csv", tuple(png))
    write_whole(written.csv, long_table(page).to_csv(index=False))
    write_whole(written.markdown, _lay_out("report.md.j2", page, plots, strips))
    write_whole(written.html, _lay_out("report.html.j2", page, plots, strips))
    return written


def _lay_out(template: str, page: Page, plots: dict[str, list[Plot]], strips: dict[str, str]) -> str:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = markdown_cell
    environment.filters["breakable"] = breakable
    style = (folder / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        page=page, plots=plots, strips=strips, style=style, machine_facts=provenance.machine_facts
    )


def markdown_cell(text: str) -> str:
    """Text within a Markdown table or line: nothing in it may end the cell or become markup."""
    line = " ".join(text.split())
    for sign in ("\\", "|", "`", "*", "_", "[", "]", "#"):
        line = line.replace(sign, f"\\{sign}")
    return line.replace("<", "&lt;").replace(">", "&gt;")


def breakable(name: str) -> Markup:
    """A name as HTML that may break after an underscore or hyphen, where a person would."""
    return Markup(re.sub(r"([_-])", r"\1<wbr>", str(escape(name))))


def _plots(block: Block, settings: Sequence[Setting], out: Path, tail: str, *, web: bool = False) -> list[Plot]:
    """The size's plot, unless it is about browsers, and one a setting: no plot holds two."""
    sizes = {line.artifact.id: line.size / 1e6 for line in block.lines}
    wanted = [] if web else [("size_loss", "Size against loss", "size, MB  (lower is better)", sizes)]
    for position, setting in enumerate(settings):
        costs = {line.artifact.id: line.speeds[setting].latency * 1e3 for line in block.lines if setting in line.speeds}
        name = f"latency_loss-{safe(setting.target)}" if position or web else "latency_loss"
        label = f"latency p50, ms  (lower is better), {setting.label}"
        caveat = f"\n{setting.caveat}" if setting.software else ""
        wanted.append((name, f"Latency on {setting.target} against loss{caveat}", label, costs))
    made = []
    for name, title, label, costs in wanted:
        points = _points(block, costs)
        if len(points) > 1 or (points and name == "size_loss"):  # a single point compares nothing
            made.append(_plot(points, out / f"{name}{tail}.png", xlabel=label, title=title))
    return made


def _points(block: Block, costs: Mapping[str, float]) -> list[Point]:
    """The models of which both the cost and the loss are known. costs: by artifact id."""
    anchor = block.lines[0].values.get("loss", 0.0)
    points = []
    for line in block.lines:
        if line.artifact.id not in costs or not math.isfinite(line.values.get("loss", math.nan)):
            continue
        ends = (None, None) if line.change is None else (line.change.low, line.change.high)
        low, high = (None if end is None else (1 + end) * anchor for end in ends)
        points.append(Point(line.artifact.name, line.role, costs[line.artifact.id], line.values["loss"], low, high,
                            rejected=bool(line.rejected)))  # fmt: skip
    return points


def _plot(points: Sequence[Point], path: Path, *, xlabel: str, title: str) -> Plot:
    light, dark = _both(path, lambda file, colors: scatter(points, file, xlabel=xlabel, title=title, colors=colors))
    told = "; ".join(f"{p.name}: {words.three(p.x)}, loss {words.number(p.y)}" for p in points)
    return Plot(path.name, f"{title.replace(chr(10), ', ')}. {xlabel}. {told}.", light, dark)


def _drawings(section: Section) -> list[tuple[str, str, Drawing]]:
    """Anchor, file name and plot of everything a section draws below its tables."""
    sweeps = section.distilled.sweeps if section.distilled else ()
    pruned = section.pruned.details if section.pruned else ()
    quantized = section.quantized.details if section.quantized else ()
    found = [(each.anchor, f"temperature-{safe(each.student)}-{safe(each.anchor[2:])}.png",
              Drawing(each.alt, each.pixels, partial(draw_sweep, each))) for each in sweeps]  # fmt: skip
    found += [(each.anchor, f"channels-{safe(each.name)}-{safe(each.artifact)}.png",
               Drawing(each.kept.alt, each.kept.pixels, partial(draw_kept, each.kept))) for each in pruned]  # fmt: skip
    found += [(each.anchor, f"layer_cost-{safe(each.name)}-{safe(each.artifact)}.png",
               Drawing(each.costs.alt, each.costs.pixels, partial(draw_costs, each.costs)))
              for each in quantized if each.costs]  # fmt: skip
    return found


def _drawn(drawing: Drawing, path: Path) -> Plot:
    light, dark = _both(path, lambda file, colors: drawing.paint(file, colors=colors))
    return Plot(path.name, drawing.alt, light, dark, *drawing.pixels)


def _both(path: Path, paint: Callable[[Path, dict[str, str]], None]) -> tuple[str, str]:
    """Draw for light pages, kept at ``path``, and for dark ones; returns both as addresses."""
    with written_whole(path) as temporary:
        paint(temporary, LIGHT)
        light = temporary.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        paint(Path(folder) / "dark.png", DARK)
        dark = (Path(folder) / "dark.png").read_bytes()
    return _uri(light), _uri(dark)


def safe(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
