"""Write a page that asks people "fake or real?" of a model's pictures, or sum up what they answered."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from compress.core.console import log, progress
from compress.core.errors import UsageError
from compress.core.options import Common, Seen, Split, positive
from compress.core.store import Store, digest

if TYPE_CHECKING:
    from compress.jobs.answers import Tally
    from compress.jobs.turing import Make


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common, Seen):
    """Flags of `compress turing`."""

    model: tuple[str, ...] = ()
    """Id, id prefix, name or .onnx file, repeatable; the newest that makes photos when not given."""
    out: Path = Path("turing")
    """Folder for the page: index.html and its pictures."""
    count: int = 12
    """Pictures: half of them real, the others shared out among the models."""
    split: Split = "test"
    """Part of the data."""
    collect: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = ()
    """Files of answers that people downloaded from a page: sum them up instead."""


def run(options: Options = Options()) -> dict[str, Any] | None:
    """Write a page that asks people "fake or real?" of a model's pictures, or sum up what they answered."""
    if options.collect:
        if options.model:
            raise UsageError("--collect and --model exclude each other", hint="a page first, its answers later")
        return _collect(options)
    positive(count=options.count)
    return _write(options)


def _write(options: Options) -> dict[str, Any] | None:
    from compress.jobs.desk import with_data
    from compress.jobs.models import open_runner, pick
    from compress.jobs.turing import Model, check_task, makes_photos, shots, write_page
    from compress.tasks import TASKS

    store = Store(options.store)
    photographic = tuple(name for name in TASKS.names() if makes_photos(TASKS.get(name)))
    artifacts = [
        pick(store, reference, wanted=f"artifact of task {' or '.join(photographic)}", task=photographic)
        for reference in options.model or ("",)
    ]
    artifacts = list({artifact.id: artifact for artifact in artifacts}.values())
    tasks = {artifact.task for artifact in artifacts}
    if len(tasks) > 1:
        raise UsageError(f"the models are of tasks {', '.join(sorted(tasks))}", hint="name models of one task")
    task = TASKS.get(artifacts[0].task)
    check_task(task)
    options = with_data(options, artifacts[0])
    data = task.open(options.data, options.split, seed=options.seed)
    if options.dry_run:
        names = ", ".join(artifact.name for artifact in artifacts)
        print(f"would ask about {options.count} of {len(data)} pictures, half made by {names}, in {options.out}")
        return None
    makers = [_maker(task, artifact, open_runner(store, artifact)) for artifact in artifacts]
    with progress("pictures", options.count) as advance:
        pictures = []
        for shot in shots(task, data, makers, count=options.count, seed=options.seed):
            pictures.append(shot)
            advance()
    models = [Model(artifact.id, artifact.name) for artifact in artifacts]
    origin = digest([data.fingerprint, options.seed])
    page = write_page(pictures, models, options.out, task=task.name, origin=origin)
    told = {"page": page, "out": str(options.out), "pictures": len(pictures), "models": [model.id for model in models]}
    log.info("open %s in a browser; people send you their answers, `compress turing --collect FILES` sums them up",
             options.out / "index.html")  # fmt: skip
    print(json.dumps(told) if options.json else options.out / "index.html")
    return told


def _maker(task: Any, artifact: Any, runner: Any) -> "Make":
    from compress.kit.infer import predict

    return lambda photo: next(iter(task.pictures(photo, predict(runner, artifact.input, photo)).values()))


def _collect(options: Options) -> dict[str, Any]:
    from compress.jobs.answers import in_json, last_of_each, read_sheet, sum_up
    from compress.jobs.turing import REPORTED

    sheets = [read_sheet(path) for path in options.collect]
    kept = last_of_each(sheets)
    if len(kept) < len(sheets):
        log.warning("%d of %d files are earlier answers of the same people, and not counted",
                    len(sheets) - len(kept), len(sheets))  # fmt: skip
    tallies = sum_up(kept)
    reported = REPORTED if {sheet.task for sheet in kept} == {"color"} else None
    told = {
        "people": len({sheet.person for sheet in kept}),
        "pages": len({sheet.page for sheet in kept}),
        "reported": reported,
        "tallies": [in_json(tally) for tally in tallies],
    }
    if options.json:
        print(json.dumps(told))
        return told
    print(f"{'taken for real':<28} {'of':>11} {'share':>8}  {'95 % (Wilson)':<18} {'95 % over people':<18}")
    for tally in tallies:
        print(_line(tally, reported))
    print(f"{told['people']} people, {told['pages']} pages")
    if reported is not None:
        print(f"beside it: {reported:.2%} in the colorization thesis, of 41 people and 12 pictures of its own data")
    return told


def _line(tally: "Tally", reported: float | None) -> str:
    name = tally.model.name if tally.model else "real pictures"
    share = f"{tally.wilson.value:.1%}" if tally.wilson.n else "-"
    spans = [
        "-" if span.low is None or span.high is None else f"{span.low:.1%} to {span.high:.1%}"
        for span in (tally.wilson, tally.clustered)
    ]
    known = tally.clustered if tally.clustered.low is not None else tally.wilson
    beyond = known.beyond(reported) if reported is not None and tally.model else None
    beside = "" if beyond is None else {1: "above", -1: "below", 0: "not told apart from"}[beyond] + f" {reported:.2%}"
    shown = f"{tally.taken} of {tally.wilson.n}"
    return f"{name:<28} {shown:>11} {share:>8}  {spans[0]:<18} {spans[1]:<18} {beside}".rstrip()
