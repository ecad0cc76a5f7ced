"""Score an artifact on a data set by its task's metrics, beside the answer that needs no network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

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
    """Pixels a side every photo is brought to; what the network was made for when not given."""
    tile: int = 0
    """Pixels a side of overlapping tiles that photos at their own size are cut into; 0 for none."""
    baseline: Annotated[bool, Parameter(negative="--no-baseline")] = True
    """Score the answer that needs no network too (identity, grey, a constant), and say how far apart they are."""


def run(
    *own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], options: Options = Options()
) -> dict[str, Any] | None:
    """Score an artifact on a data set by its task's metrics, beside the answer that needs no network."""
    from compress.core.console import progress
    from compress.jobs.desk import with_data
    from compress.jobs.evaluate import Source, evaluate, input_at, keep_pictures, metric_rows
    from compress.jobs.flags import take
    from compress.jobs.models import open_runner, pick
    from compress.tasks import TASKS

    store = Store(options.store)
    artifact = pick(store, options.model)
    options = with_data(options, artifact)
    task = TASKS.get(artifact.task)
    flags = take((task.extras,), own, f"the {task.name} task", options)
    data = task.open(options.data, options.split, seed=options.seed)
    spec = input_at(artifact, options.size)
    if options.dry_run:
        size = "its own size" if spec.fit == "native" else f"{spec.height}x{spec.width}"
        print(f"would score {artifact.id} on {len(data)} pictures at {size}")
        return None
    extras = task.extras(**flags.values[0])
    runner = open_runner(store, artifact)
    with progress(f"score {artifact.name}", len(data)) as advance:
        keep = keep_pictures(store, artifact, task, data)
        result = evaluate(runner, spec, task, data, advance, tile=options.tile, extras=extras, keep=keep)
    if "classes" in result.details and hasattr(data, "labels"):
        result.details["classes"] = list(data.labels)
    more = {**({"details": result.details} if result.details else {}), **_baseline(options, task, data, result)}
    source = Source(options.data, options.split)
    metrics = [*task.metrics, *(extra.metric for extra in extras)]
    store.add_rows(metric_rows(artifact, runner, spec, data, source, result, metrics, {**more, **flags.settings}))
    told = {"model": artifact.id, "name": artifact.name, "data": data.fingerprint, "split": options.split,
            "size": spec.height, "fit": spec.fit, **result.metrics, **more}  # fmt: skip
    if options.json:
        print(json.dumps(told))
    else:
        _print(result.metrics, more)
        print(artifact.id)
    return told


def _baseline(options: Options, task: Any, data: Any, result: Any) -> dict[str, Any]:
    """Score the answer that needs no network: its name, metrics and the paired difference of losses."""
    from compress.core.console import progress
    from compress.jobs.evaluate import evaluate_baseline
    from compress.kit.intervals import paired_difference

    if not options.baseline:
        return {}
    with progress("score the baseline", len(data)) as advance:
        scored = evaluate_baseline(task, options.data, options.seed, data, advance)
    if scored is None:
        return {}
    name, trivial = scored
    gain = paired_difference(trivial.losses, result.losses)
    beside = {"name": name, "metrics": trivial.metrics, "gain": [gain.value, gain.low, gain.high]}
    return {"baseline": beside}


def _print(metrics: Mapping[str, float], more: Mapping[str, Any]) -> None:
    beside = more.get("baseline", {"metrics": {}, "name": ""})
    head = f"{'':<18} {'model':>12} {beside['name']:>24}"
    print(head.rstrip())
    for name, value in metrics.items():
        other = beside["metrics"].get(name)
        print(f"{name:<18} {value:>12.6g} {'' if other is None else f'{other:>24.6g}'}".rstrip())
    if "gain" in beside:
        value, low, high = beside["gain"]
        interval = f" [{low:+.4g}, {high:+.4g}]" if low is not None else " (too few images for an interval)"
        print(f"loss below {beside['name']} by {value:+.4g}{interval}, paired over images, 95 %")
    for name, table in more.get("details", {}).items():
        _table(name, table)


def _table(name: str, table: Any) -> None:
    """Print a detail: numbers by key a line each, a matrix row by row, anything else on one line."""
    if isinstance(table, Mapping):
        print(f"{name}:")
        for key, value in table.items():
            print(f"  {key:<24} {_short(value)}")
    elif isinstance(table, list) and table and isinstance(table[0], list):
        print(f"{name}:")
        for row in table:
            print("  " + " ".join(f"{_short(value):>9}" for value in row))
    else:
        print(f"{name}: {' '.join(map(_short, table if isinstance(table, list) else [table]))}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
