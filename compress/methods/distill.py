"""Train a student that learns from a trained teacher at temperature T, level by level."""

from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.options import Fitting


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Fitting):
    """Flags of `compress distill`."""

    teacher: str
    """Trained teacher: the name of a network or artifact (the newest is taken), or an id."""
    student: str = ""
    """Network to train; the teacher's own student when none is given."""
    temperature: Annotated[float, Parameter(name="--T")] = 2.0
    """Temperature: both outputs are softened by it before they are compared."""


def run(*own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], options: Options) -> Artifact | None:
    """Train a student that learns from a trained teacher at temperature T, level by level."""
    from compress.core.options import positive

    positive(T=options.temperature)
    store = Store(options.store)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.fit import fit
    from compress.jobs.flags import take
    from compress.jobs.learn import learn_from, pick_student, pick_teacher
    from compress.jobs.plan import settle
    from compress.tasks import TASKS

    teacher = pick_teacher(store, options.teacher, options.data)
    options = with_data(options, teacher)
    network = find_network(pick_student(teacher, options.student))
    flags = take((network.build,), own, network.name, options)
    task = TASKS.get(network.task)
    data = task.open(options.data, "train", seed=options.seed)
    plan = settle(options, network, len(data))
    planned = stage(
        "distill",
        options,
        data=data.fingerprint,
        teacher=teacher,
        resolved={**asdict(plan), **flags.settings, "student": network.name, "teacher": teacher.network},
    )
    name = options.name or f"{network.name}-T{options.temperature:g}"
    if planned_only(options, planned, f"distill {teacher.id} into {network.name} on {len(data)} pictures"):
        return None
    artifact = found(store, planned, options) or fit(
        store,
        planned,
        options,
        plan,
        network,
        task,
        data,
        learn_from(store, teacher, task, options.temperature, data),
        name,
        flags.values[0],
    )
    if artifact is not None:
        tell(options, artifact, store)
    return artifact
