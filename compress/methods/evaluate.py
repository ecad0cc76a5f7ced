"""Score an artifact on a data set: loss, MAE, maxF, S-measure, dead masks."""

import json
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from compress.core.options import Common, Seen, Split
from compress.core.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common, Seen):
    """Flags of `compress evaluate`."""

    model: str = ""
    """Id, id prefix, name or .onnx file; the newest artifact when not given."""
    split: Split = "test"
    """Part of the data."""
    size: int | None = None
    """Pixels a side the network runs at; its own when not given."""


def run(options: Options = Options()) -> dict[str, Any] | None:
    """Score an artifact on a data set: loss, MAE, maxF, S-measure, dead masks."""
    from compress.core.console import progress
    from compress.jobs.desk import with_data
    from compress.jobs.evaluate import Source, evaluate, input_at, keep_pictures, metric_rows
    from compress.jobs.models import open_runner, pick
    from compress.tasks import TASKS

    store = Store(options.store)
    artifact = pick(store, options.model)
    options = with_data(options, artifact)
    task = TASKS.get(artifact.task)
    data = task.open(options.data, options.split, seed=options.seed)
    spec = input_at(artifact, options.size)
    if options.dry_run:
        print(f"would score {artifact.id} on {len(data)} pictures at {spec.height}x{spec.width}")
        return None
    runner = open_runner(store, artifact)
    with progress(f"score {artifact.name}", len(data)) as advance:
        result = evaluate(runner, spec, task, data, advance)
    keep_pictures(store, artifact, runner, spec, task, data)
    store.add_rows(metric_rows(artifact, runner, spec, task, data, Source(options.data, options.split), result))
    told = {"model": artifact.id, "name": artifact.name, "data": data.fingerprint, "split": options.split,
            "size": spec.height, **result.metrics}  # fmt: skip
    if options.json:
        print(json.dumps(told))
    else:
        for name, value in result.metrics.items():
            print(f"{name:<12} {value:.6g}")
        print(artifact.id)
    return told
