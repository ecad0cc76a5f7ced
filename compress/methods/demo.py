"""Write a static folder that shows models off in any browser: pick a photo, see what they make of it, offline."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from compress.core.console import log, progress
from compress.core.options import Common
from compress.core.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress demo`."""

    out: Path = Path("demo")
    """Folder for the page; an earlier demo in it is replaced."""
    weights: Literal["float32", "float16", "uint16", "uint8"] = "float16"
    """How weights are stored for the download; the browser computes in float32 all the same."""


def run(
    models: Annotated[
        tuple[str, ...],
        Parameter(help="Ids, id prefixes, names or .onnx files; the newest artifact if none."),
    ] = (),
    *,
    options: Options = Options(),
) -> dict[str, Any] | None:
    """Write a static folder that shows models off in any browser: pick a photo, see what they make of it, offline."""
    from compress.core.web import vendored
    from compress.jobs.demo import RUNTIME, Exhibit, check_drawn, check_free, write_demo
    from compress.jobs.export import as_tfjs
    from compress.jobs.models import pick

    store = Store(options.store)
    artifacts = list({artifact.id: artifact for artifact in (pick(store, model) for model in models or ("",))}.values())
    # what can't be is said before minutes of exporting
    for artifact in artifacts:
        check_drawn(artifact)
    for package in RUNTIME:
        vendored(f"@tensorflow/{package}")
    check_free(options.out)
    if options.dry_run:
        plan = {"plan": "demo", "models": [artifact.id for artifact in artifacts], "out": str(options.out)}
        names = ", ".join(artifact.name for artifact in artifacts)
        print(json.dumps(plan) if options.json else f"would show {names} in {options.out}")
        return None
    exhibits = []
    with progress("models for the browser", len(artifacts)) as advance:
        for artifact in artifacts:
            stored = artifact.dtype if artifact.format == "tfjs" else options.weights  # an export stays as it is
            exhibits.append(Exhibit(artifact, as_tfjs(store, artifact, options.weights), stored))
            advance()
    demo = write_demo(exhibits, options.out)
    told = {"out": str(options.out), **asdict(demo), "models": [artifact.id for artifact in artifacts]}
    log.info("%d files, %.1f MB; see it with: python -m http.server -d %s", demo.files, demo.bytes / 1e6, options.out)
    print(json.dumps(told) if options.json else options.out)
    return told
