"""Take channels out of a trained network, whole ones, so that it is smaller and faster everywhere."""

from dataclasses import dataclass

from cyclopts import Parameter

from compress.core.options import exclusive, positive
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.pruneoptions import Pruning


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Pruning):
    """Flags of `compress prune`."""


def run(options: Options = Options()) -> Artifact | None:
    """Take channels out of a trained network, whole ones, so that it is smaller and faster everywhere."""
    exclusive(ratio=options.ratio, macs=options.macs)
    positive(round_to=options.round_to, rounds=options.rounds, batches=options.batches, size=options.size)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.models import pick
    from compress.jobs.prune import next_step, prune_artifact, settled
    from compress.tasks import TASKS

    store = Store(options.store)
    resolved = settled(options)
    parent = pick(store, options.model, wanted="network with torch weights", format="safetensors")
    options = with_data(options, parent)
    task = TASKS.get(parent.task)
    # weights alone are looked at otherwise: such a stage does not depend on the data
    photos = task.open(options.data, "train", seed=options.seed) if options.importance == "taylor" else None
    planned = stage("prune", options, parent=parent, data=photos.fingerprint if photos else "", resolved=resolved)
    if planned_only(options, planned, f"prune {parent.id} ({parent.name})"):
        return None
    artifact = found(store, planned, options) or prune_artifact(store, planned, options, parent, photos)
    tell(options, artifact, store)
    next_step(parent, artifact)
    return artifact
