"""Train a network while it is rounded as its quantized file will be: learns its float32 parent's pictures."""

from dataclasses import dataclass

from cyclopts import Parameter

from compress.core.options import positive
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.qatoptions import Refining


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Refining):
    """Flags of `compress qat`."""


def run(options: Options = Options()) -> Artifact | None:
    """Train a network while it is rounded as its quantized file will be: learns its float32 parent's pictures."""
    positive(steps=options.steps, lr=options.lr, batch=options.batch, size=options.size, devices=options.devices)
    positive(calibration=options.calibration, selection=options.selection, validate_every=options.validate_every)
    positive(checkpoint_every=options.checkpoint_every)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.qat import Lineage, float_parent, pick_teacher, refine, training_spec
    from compress.jobs.shrink import calibration_photos
    from compress.tasks import TASKS

    store = Store(options.store)
    parent = float_parent(store, options.model)
    teacher = pick_teacher(store, options.teacher, parent) if options.teacher else None
    spec = training_spec(parent, options)
    options = with_data(options, parent)
    task = TASKS.get(parent.task)
    photos = calibration_photos(task, options.data, options.seed, options.calibration)
    data = task.open(options.data, "train", seed=options.seed)
    planned = stage(
        "qat", options, parent=parent, teacher=teacher, data=data.fingerprint, resolved={"size": spec.height}
    )
    if planned_only(options, planned, f"train {parent.id} ({parent.name}) as {options.dtype}, {options.steps} steps"):
        return None
    lineage = Lineage(parent, teacher or parent, spec)
    artifact = found(store, planned, options) or refine(store, planned, options, lineage, photos, data)
    tell(options, artifact, store)
    return artifact
