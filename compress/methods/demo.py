"""Write a static folder that shows models off in any browser: pick a photo, see what they make of it, offline."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from compress.core.console import log, progress
from compress.core.errors import ParityError
from compress.core.options import Common
from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    from compress.jobs.demo import Exhibit


Weights = Literal["float32", "float16", "uint16", "uint8"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress demo`."""

    out: Path = Path("demo")
    """Folder for the page; an earlier demo in it is replaced."""
    weights: Weights = "float16"
    """How weights are stored for the download; the browser computes in float32 all the same, and a model whose pictures
    that would change keeps float32."""


def run(
    models: Annotated[
        tuple[str, ...],
        Parameter(help="Ids, id prefixes, names or .onnx files; the newest artifact if none."),
    ] = (),
    *,
    options: Options = Options(),
) -> dict[str, Any] | None:
    """Write a static folder that shows models off in any browser: pick a photo, see what they make of it, offline."""
    from compress.core.whole import check_ours
    from compress.jobs.demo import MARK, check_drawn, write_demo
    from compress.jobs.demo_runtime import check_runtime
    from compress.jobs.models import pick

    store = Store(options.store)
    artifacts = list(
        {artifact.id: artifact for artifact in (pick(store, model, shipped=True) for model in models or ("",))}.values()
    )
    # what can't be is said before minutes of exporting
    for artifact in artifacts:
        check_drawn(artifact)
    check_runtime()
    check_ours(options.out, MARK)
    if options.dry_run:
        plan = {"plan": "demo", "models": [artifact.id for artifact in artifacts], "out": str(options.out)}
        names = ", ".join(artifact.name for artifact in artifacts)
        print(json.dumps(plan) if options.json else f"would show {names} in {options.out}")
        return None
    exhibits = []
    with progress("models for the browser", len(artifacts)) as advance:
        for artifact in artifacts:
            exhibits.append(_export(store, artifact, options.weights))
            advance()
    demo = write_demo(exhibits, options.out)
    told = {"out": str(options.out), **asdict(demo), "models": [artifact.id for artifact in artifacts]}
    log.info("%d files, %.1f MB; see it with: python -m http.server -d %s", demo.files, demo.bytes / 1e6, options.out)
    print(json.dumps(told) if options.json else options.out)
    return told


def _export(store: Store, artifact: Artifact, weights: Weights) -> "Exhibit":
    """Export a model; one that fewer bits would change is shown in float32."""
    from compress.jobs.demo import Exhibit
    from compress.jobs.export import as_tfjs

    if artifact.format == "tfjs":  # an export stays as it is
        return Exhibit(artifact, as_tfjs(store, artifact), artifact.dtype)
    try:
        return Exhibit(artifact, as_tfjs(store, artifact, weights), weights)
    except ParityError as error:
        if weights == "float32":
            raise
        log.warning("%s is shown with float32 weights, twice the download: %s", artifact.name, error.what)
        return Exhibit(artifact, as_tfjs(store, artifact), "float32")
