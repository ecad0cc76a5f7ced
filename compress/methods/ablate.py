"""Tell whether every branch of a network is alive: what its loss rises by when one is another image's."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from cyclopts import Parameter

from compress.core.errors import MissingExtraError, UsageError
from compress.core.options import Common, Seen, Split, positive
from compress.core.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common, Seen):
    """Flags of `compress ablate`."""

    model: str = ""
    """Id, id prefix or name; the newest artifact with torch weights when not given."""
    split: Split = "test"
    """Part of the data."""
    limit: int | None = None
    """Pictures to take, drawn by seed; all when not given."""
    size: int | None = None
    """Pixels a side the network runs at; its own when not given."""
    batch: int = 8
    """Pictures between which a branch is shuffled."""
    branch: tuple[str, ...] = ()
    """Part to shuffle, "path" or "path:1" for its second argument, repeatable; those the network names by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def run(options: Options = Options()) -> dict[str, Any] | None:
    """Tell whether every branch of a network is alive: what its loss rises by when one is another image's."""
    from compress.core.console import log, progress
    from compress.jobs.alive import ablate, ablation_rows, drawn
    from compress.jobs.desk import with_data
    from compress.jobs.evaluate import Source, input_at
    from compress.jobs.models import load_module, pick
    from compress.tasks import TASKS

    positive(limit=options.limit, size=options.size)
    if options.batch < 2:
        raise UsageError(f"--batch is {options.batch}, shuffling needs 2 or more", hint="leave it out")
    store = Store(options.store)
    artifact = pick(store, options.model, wanted="artifact with torch weights", format="safetensors")
    module = load_module(store, artifact)
    branches = _branches(options, artifact.network, module)
    options = with_data(options, artifact)
    task, spec = TASKS.get(artifact.task), input_at(artifact, options.size)
    whole = task.open(options.data, options.split, seed=options.seed)
    data = drawn(whole, options.limit, options.seed)
    if options.dry_run:
        print(f"would shuffle {len(branches)} branches of {artifact.id} on {len(data)} pictures")
        return None
    with progress(f"ablate {artifact.name}", len(data)) as advance:
        plain, found = ablate(
            module, branches, spec, task, data, batch=options.batch, device=_device(options.device), advance=advance
        )
    source = Source(options.data, options.split)
    store.add_rows(ablation_rows(artifact, spec, task, whole.fingerprint, source, found))
    told = {"model": artifact.id, "name": artifact.name, "data": whole.fingerprint, "split": options.split,
            "size": spec.height, "images": len(data), "loss": sum(plain) / len(plain),
            "branches": [{"branch": b.name, "cost": b.rise.value, "interval": [b.rise.low, b.rise.high],
                          "spread": b.spread, "dead": b.dead} for b in found]}  # fmt: skip
    if options.json:
        print(json.dumps(told))
    else:
        _tell(told)
        print(artifact.id)
    for branch in found:
        if branch.dead:
            log.warning("DEAD: %s of %s: %s", branch.name, artifact.name, branch.dead)
    return told


def _branches(options: Options, network: str, module: Any) -> tuple[str, ...]:
    """Those asked for, or those the network names and, built with these options, has."""
    from compress.core.networks import find_network

    parts = {name for name, _ in module.named_modules(remove_duplicate=False)}
    named = [branch for branch in find_network(network).branches if branch.partition(":")[0] in parts]
    branches = options.branch or tuple(named)
    if not branches:
        raise UsageError(f"{network} names no branches", hint="name some with --branch, such as --branch up1:1")
    return tuple(dict.fromkeys(branches))


def _device(wanted: str) -> str:
    import torch

    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        raise MissingExtraError("device 'cuda' is not here", hint="use --device cpu")
    return "cuda" if here and wanted != "cpu" else "cpu"


def _tell(told: dict[str, Any]) -> None:
    print(f"loss {told['loss']:.4f} over {told['images']} images; what it rises by when a branch is another image's:")
    for entry in told["branches"]:
        low, high = entry["interval"]
        between = "too few images" if low is None else f"[{low:+.4f}, {high:+.4f}]"
        mark = f"  DEAD: {entry['dead']}" if entry["dead"] else ""
        print(f"{entry['branch']:<16} {entry['cost']:+.4f}  {between:<20}  spread {entry['spread']:.2g}{mark}")
