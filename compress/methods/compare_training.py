"""Write a page of several trainings side by side: curves, pictures by epoch, epochs to the same loss."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from compress.core.errors import UsageError
from compress.core.options import Common
from compress.core.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress compare-training`."""

    out: Path | None = None
    """Folder of the page; <store>/training when none is given."""


def run(
    models: Annotated[list[str], Parameter(help="Ids, id prefixes or names of trainings of one task, two or more.")],
    *,
    options: Options = Options(),
) -> Path | None:
    """Write a page of several trainings side by side: curves, pictures by epoch, epochs to the same loss."""
    store = Store(options.store)
    artifacts = [store.get(reference) for reference in models]
    tasks = sorted({artifact.task for artifact in artifacts})
    if len(tasks) > 1:
        raise UsageError(f"the runs are of {' and '.join(tasks)}", hint="give runs of one task")
    out = options.out or options.store / "training"
    if options.dry_run:
        print(f"would compare {', '.join(artifact.name for artifact in artifacts)} in {out}")
        return None
    from reports.training import Judged, write_training

    page, numbers = write_training(store, artifacts, Judged(*_judged(tasks[0])), out)
    if options.json:
        print(json.dumps({"html": str(page), "json": str(numbers)}))
    else:
        print(page)
    return page


def _judged(name: str) -> tuple[str, str, str]:
    """Return the task's name, its first metric of which more is better, and its main picture's."""
    import numpy as np

    from compress.tasks import TASKS

    task = TASKS.get(name)
    metric = next((metric.name for metric in task.metrics if metric.better == "higher"), "")
    small = np.zeros((8, 8, 3), np.uint8), np.zeros((task.output.channels, 8, 8), np.float32)
    return name, metric, next(iter(task.pictures(*small)))
