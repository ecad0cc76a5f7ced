"""Train a network of either room on labelled pictures: a teacher, or a student alone as its own baseline."""

from dataclasses import asdict, dataclass

from cyclopts import Parameter

from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.options import Fitting


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Fitting):
    """Flags of `compress train`."""

    teacher: str
    """Network to train, of the teachers' or the students' room."""


def run(options: Options) -> Artifact | None:
    """Train a network of either room on labelled pictures: a teacher, or a student alone as its own baseline."""
    network = find_network(options.teacher)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.fit import fit
    from compress.jobs.plan import settle
    from compress.tasks import TASKS

    options = with_data(options)
    task, store = TASKS.get(network.task), Store(options.store)
    data = task.open(options.data, "train", seed=options.seed)
    plan = settle(options, network, len(data))
    rivals = task.rivals(network)
    against = {"rivals": {name: dict(rival.settings) for name, rival in rivals.items()}} if rivals else {}
    planned = stage("train", options, data=data.fingerprint, resolved={**asdict(plan), **against})
    if planned_only(options, planned, f"train {network.name} on {len(data)} pictures, {plan.steps} steps"):
        return None
    artifact = found(store, planned, options) or fit(
        store,
        planned,
        options,
        plan,
        network,
        task,
        data,
        lambda _: task.loss,
        options.name or network.name,
        rivals=rivals,
    )
    if artifact is not None:
        tell(options, artifact, store)
    return artifact
