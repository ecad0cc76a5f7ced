"""`python -m benchmarks.results`: make what the table of distillation needs, score it, write the table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.results.plan import family_names, read_family
from compress.core.errors import UsageError, unknown
from compress.core.launch import launch
from compress.core.options import positive

ROOT = Path(__file__).resolve().parents[2]
app = App(
    name="benchmarks.results",
    help="Make, score and tabulate what distillation is measured by.",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `python -m benchmarks.results`."""

    only: tuple[str, ...] = ()
    """Family, repeatable; all when none is given."""
    seeds: int = 3
    """How many: 0, 1, ..."""
    store: Path = Path("artifacts/results")
    """Folder of artifacts; what it has is not made again."""
    data_root: Annotated[Path, Parameter(env_var="COMPRESS_SHARED_DATA")] = ROOT.parent / "shared" / "data"
    """Folder of the data sets' folders, saliency/ecssd and so on; $COMPRESS_SHARED_DATA when not given."""
    teacher: tuple[str, ...] = ()
    """FAMILY=ID of a trained teacher in the store to use instead of training one, repeatable."""
    out: Path | None = None
    """Markdown file to write, and the same as .json beside it; the screen when not given."""
    quick: bool = False
    """Tiny networks, two steps, made-up pictures: shows that everything runs."""
    list: bool = False
    """Only say what there is, what is to do, and how many minutes that takes."""
    table: bool = False
    """Make nothing: the table of what is there."""
    quiet: bool = False
    """No progress and no log on stderr; warnings and errors remain."""


@app.default
def main(*, options: Options = Options()) -> None:
    """Make, score and tabulate what distillation is measured by."""
    positive(seeds=options.seeds)
    for name in options.only:
        if name not in family_names():
            raise unknown("family", name, family_names())
    if options.out is not None and options.out.suffix != ".md":
        raise UsageError(f"--out is {options.out}, wanted a file that ends on .md")
    from benchmarks.results.book import make_pages, told_of
    from benchmarks.results.run import Desk, Play, in_own_process, run_here
    from benchmarks.results.table import listing, markdown, record
    from benchmarks.results.words import Setting
    from compress.core.whole import write_whole

    given = dict(_pair(entry) for entry in options.teacher)
    setting = Setting(options.store, options.data_root, options.quick)
    families = [read_family(name) for name in family_names() if not options.only or name in options.only]
    play: Play | None = None
    if not (options.list or options.table):
        play = run_here if options.quick else in_own_process
    desk = Desk(setting, options.seeds, given, play)
    if options.list:
        print(listing([outcome for family in families for outcome in desk.go(family)]))
        return
    pages = make_pages(desk, families)
    about = told_of(setting, options.seeds)
    text = markdown(pages, about["text"])
    if options.out is None:
        print(text)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, text)
    write_whole(options.out.with_suffix(".json"), json.dumps(record(pages, about), indent=1))
    print(options.out)


def _pair(entry: str) -> tuple[str, str]:
    family, sign, reference = entry.partition("=")
    if not sign or family not in family_names() or not reference:
        raise UsageError(f"--teacher {entry}, wanted FAMILY=ID", hint=f"families: {', '.join(family_names())}")
    return family, reference


if __name__ == "__main__":
    launch(app, lenient=())
