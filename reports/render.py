"""Lay the report out and write it: index.html, report.md, report.csv and the PNGs, each file whole."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from compress.core.store import Store, write_whole, written_whole
from compress.core.types import Artifact, Row
from reports import provenance, words
from reports.export import long_table
from reports.lineage import ROLES
from reports.pages import Block, Page, page_of
from reports.pictures import draw
from reports.plots import DARK, LIGHT, STYLE, Point, scatter


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    html: Path
    markdown: Path
    csv: Path
    png: tuple[Path, ...]


@dataclass(frozen=True)
class Plot:
    """A plot: its file, what it shows in words, and itself as an address in both colour schemes."""

    file: str
    alt: str
    light: str
    dark: str


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
        tail = f"-{block.anchor}" if position else ""
        plots[block.anchor] = _plots(block, out, tail)
        png += [out / plot.file for plot in plots[block.anchor]]
        if block.strip is not None:
            strips[block.anchor] = f"strip{tail}.png"
            png.append(out / strips[block.anchor])
            with written_whole(png[-1]) as temporary:
                draw(block.strip, temporary)
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
    style = (folder / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        page=page, plots=plots, strips=strips, style=style, roles=ROLES, marks=STYLE, words=words,
        machine_facts=provenance.machine_facts,
    )  # fmt: skip


def markdown_cell(text: str) -> str:
    """Text within a Markdown table or line: nothing in it may end the cell or become markup."""
    line = " ".join(text.split())
    for sign in ("\\", "|", "`", "*", "_", "[", "]", "#"):
        line = line.replace(sign, f"\\{sign}")
    return line.replace("<", "&lt;").replace(">", "&gt;")


def _plots(block: Block, out: Path, tail: str) -> list[Plot]:
    lines = [line for line in block.lines if "loss" in line.values]
    if not lines:
        return []
    teacher = block.lines[0].values.get("loss")

    def points(costs: dict[str, float]) -> list[Point]:
        found = []
        for line in lines:
            ends = line.change and line.change.low is not None and line.change.high is not None and teacher
            low, high = ((1 + (line.change.low or 0)) * teacher, (1 + (line.change.high or 0)) * teacher) if (
                ends and line.change and teacher) else (None, None)  # fmt: skip
            if line.artifact.id in costs:
                found.append(Point(line.artifact.name, line.role, costs[line.artifact.id], line.values["loss"], low, high,
                                   bool(line.rejected)))  # fmt: skip
        return found

    made = [_plot(points({line.artifact.id: line.size / 1e6 for line in lines}), out / f"size_loss{tail}.png",
                  "size, MB  (lower is better)", "Size against loss")]  # fmt: skip
    for position, setting in enumerate(block.settings):
        costs = {line.artifact.id: line.speeds[setting].latency * 1e3 for line in lines if setting in line.speeds}
        name = f"latency_loss{f'-{setting.target}' if position else ''}{tail}.png"
        if costs:
            made.append(_plot(points(costs), out / name, f"latency p50, ms  (lower is better), {setting.label}",
                              f"Latency on {setting.target} against loss"))  # fmt: skip
    return made


def _plot(points: Sequence[Point], path: Path, xlabel: str, title: str) -> Plot:
    with written_whole(path) as temporary:
        scatter(points, temporary, xlabel=xlabel, title=title, colors=LIGHT)
        light = temporary.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        scatter(points, Path(folder) / "dark.png", xlabel=xlabel, title=title, colors=DARK)
        dark = (Path(folder) / "dark.png").read_bytes()
    told = "; ".join(f"{p.name}: {words.three(p.x)}, loss {words.number(p.y)}" for p in points)
    return Plot(path.name, f"{title}. {xlabel}. {told}.", _uri(light), _uri(dark))


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
