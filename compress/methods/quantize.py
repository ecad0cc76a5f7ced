"""Make an artifact smaller and faster without training: integers, halves, or a mix, chosen on photos and judged."""

import json
from dataclasses import asdict, dataclass

from cyclopts import Parameter

from compress.core.options import positive
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.options import Shrinking


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Shrinking):
    """Flags of `compress quantize`."""


def run(options: Options = Options()) -> Artifact | None:
    """Make an artifact smaller and faster without training: integers, halves, or a mix, chosen on photos and judged."""
    positive(calibration=options.calibration, selection=options.selection, size=options.size)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.evaluate import input_at
    from compress.jobs.foreign import Reading
    from compress.jobs.models import pick
    from compress.jobs.shrink import calibration_photos, shrink
    from compress.kit.quant.plan import INTEGER
    from compress.tasks import TASKS

    store = Store(options.store)
    reading = Reading(task=options.task)
    parent = pick(store, options.model, wanted="float32 artifact", dtype="float32", reading=reading)
    options = with_data(options, parent)
    spec = input_at(parent, options.size)
    if options.explain:
        _explain(store, options, parent, spec)
    photos = calibration_photos(TASKS.get(parent.task), options.data, options.seed, options.calibration)
    # weights alone are rounded without a look at any photo: such a stage does not depend on the data
    fingerprint = photos.fingerprint if options.dtype in (*INTEGER, "mixed") else ""
    planned = stage("quantize", options, parent=parent, data=fingerprint, resolved={"size": spec.height})
    if planned_only(options, planned, f"quantize {parent.id} ({parent.name}) to {options.dtype}"):
        return None
    artifact = found(store, planned, options) or shrink(store, planned, options, parent, spec, photos)
    tell(options, artifact, store)
    return artifact


def _explain(store: Store, options: Options, parent: Artifact, spec: object) -> None:
    from compress.jobs.shrink import explain

    rows = explain(store, options, parent, spec)  # type: ignore[arg-type]
    if options.json:
        print(json.dumps({"layers": [asdict(row) for row in rows]}))
        return
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("name", "operator", "form")]
    for row in rows:
        print(f"{row.name:<{widths[0]}}  {row.operator:<{widths[1]}}  {row.form:<{widths[2]}}  {row.reason}")
