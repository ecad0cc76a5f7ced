"""Take an artifact or any ONNX file apart: bytes, arithmetic, redundancy, float16 risks, targets that run it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from compress.core.console import log
from compress.core.errors import UsageError
from compress.core.options import Common, positive
from compress.core.registry import Room
from compress.core.store import Store
from compress.core.types import Artifact

# by name: the benchmarks know the methods, not the other way round
_TARGETS: Room[Any] = Room("benchmarks.targets", "target")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress inspect`."""

    data: tuple[str, ...] = ()
    """Folder of photos, repeatable, or "builtin": look at the ranges of values and sums that float16 would hold."""
    photos: int = 8
    """How many photos of --data."""
    size: int | None = None
    """Pixels a side for work and ranges; what the network was made for when not given."""
    task: str = "saliency"
    """Task of an .onnx file outside the store: how its pictures go in."""
    top: int = 10
    """Lines of long tables; --json has all."""
    picture: Path | None = None
    """Draw the bytes as a treemap into this .png file."""


def run(
    model: Annotated[
        str, Parameter(help="Id, id prefix, name or any .onnx file; the newest that has one when not given.")
    ] = "",
    *,
    options: Options = Options(),
) -> dict[str, Any] | None:
    """Take an artifact or any ONNX file apart: bytes, arithmetic, redundancy, float16 risks, targets that run it."""
    positive(photos=options.photos, size=options.size, top=options.top)
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture {options.picture} is no .png file", hint="give a name that ends in .png")
    from compress.jobs.inspect_model import as_json, examine, find
    from compress.jobs.inspect_table import tables
    from compress.jobs.inspect_treemap import draw

    store = Store(options.store)
    subject = find(store, model, options.task, dry=options.dry_run)
    if options.dry_run:
        print(f"would inspect {subject.path}, {subject.origin}")
        return None
    report = examine(store, subject, size=options.size, data=options.data, photos=options.photos)
    # an imported file is called by the type of its weights; what counts here is that it computes on integers
    kind = "int8" if report.quantized else subject.artifact.dtype
    targets = _ask(replace(subject.artifact, dtype=kind), report.refused)
    told = as_json(report) | {"targets": targets}
    if options.picture is not None:
        draw(report, options.picture)
        log.info("wrote %s", options.picture)
    print(json.dumps(told) if options.json else tables(report, targets, options.top))
    return told


def _ask(artifact: Artifact, refused: str) -> list[dict[str, str]]:
    """Ask every target whether it runs such an artifact, and whether this machine has what it needs."""
    answers = []
    for name in _TARGETS.names():
        target = _TARGETS.get(name)
        why, missing = target.can_run(artifact), target.available()
        if name == "cpu" and refused:
            why = f"ONNX Runtime can't load it: {refused}"
        answers.append({
            "target": name,
            "runs": "no" if why else "yes",
            "here": "no" if missing else "yes",
            "why": why or missing,
        })  # fmt: skip
    return answers
