"""Make an artifact smaller and faster without training: static int8 (QDQ, per channel) or float16 weights."""

from dataclasses import dataclass

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
    """Make an artifact smaller and faster without training: static int8 (QDQ, per channel) or float16 weights."""
    positive(calibration=options.calibration, size=options.size)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.evaluate import input_at
    from compress.jobs.models import pick
    from compress.jobs.shrink import calibration_photos, shrink
    from compress.tasks import TASKS

    store = Store(options.store)
    parent = pick(store, options.model, wanted="float32 artifact", dtype="float32")
    options = with_data(options, parent)
    spec = input_at(parent, options.size)
    photos = calibration_photos(TASKS.get(parent.task), options.data, options.seed, options.calibration)
    # float16 looks at no photo: its stage does not depend on the data
    fingerprint = photos.fingerprint if options.dtype == "int8" else ""
    planned = stage("quantize", options, parent=parent, data=fingerprint, resolved={"size": spec.height})
    if planned_only(options, planned, f"quantize {parent.id} ({parent.name}) to {options.dtype}"):
        return None
    artifact = found(store, planned, options) or shrink(store, planned, options, parent, spec, photos)
    tell(options, artifact, store)
    return artifact
