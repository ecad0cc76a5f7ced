"""Train a student that learns from a trained teacher at temperature T, level by level."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from compress.core.types import Artifact
from compress.jobs.distilloptions import Distilling


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Distilling):
    """Flags of `compress distill`."""


def run(*own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], options: Options) -> Artifact | None:
    """Train a student that learns from a trained teacher at temperature T, level by level."""
    from compress.core.store import Store
    from compress.jobs.distill import distill, read_temperatures, tell_sweep
    from compress.jobs.learn import pick_learner, pick_teacher

    temperatures = read_temperatures(options.temperature)
    store = Store(options.store)
    teacher = pick_teacher(store, options)
    learner = pick_learner(store, teacher, options, own)
    made = [distill(store, teacher, learner, T, options, visits=len(temperatures)) for T in temperatures]
    return tell_sweep(store, options, temperatures, made)
