"""Train a network of either room on labelled pictures: a teacher, or a student alone as its own baseline."""

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
    """Flags of `compress train`."""

    teacher: str
    """Network to train, of the teachers' or the students' room; its own flags: compress train --teacher NAME --help."""


def run(*own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], options: Options) -> Artifact | None:
    """Train a network of either room on labelled pictures: a teacher, or a student alone as its own baseline."""
    network = find_network(options.teacher)
    from compress.jobs.desk import found, planned_only, stage, tell, with_data
    from compress.jobs.fit import fit
    from compress.jobs.flags import functions_of, take
    from compress.jobs.plan import settle
    from compress.jobs.players import settings_of
    from compress.tasks import TASKS

    task, store = TASKS.get(network.task), Store(options.store)
    flags = take(functions_of(network, task), own, network.name, options)
    build_with, teach_with = flags.values
    options = with_data(options)
    data = task.open(options.data, "train", seed=options.seed)
    lesson = network.teach(task, data, **teach_with) if network.teach else task.teach(data, **teach_with)
    plan = settle(options, network, len(data), lesson.ema)
    planned = stage(
        "train",
        options,
        data=data.fingerprint,
        resolved={**asdict(plan), **flags.settings, **settings_of(lesson)},
    )
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
        lambda *_: lesson,
        options.name or network.name,
        build_with,
        alone=not (lesson.rivals or lesson.phases),
    )
    if artifact is not None:
        tell(options, artifact, store)
    return artifact
