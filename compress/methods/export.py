"""Write an artifact in another format, checked against the original on real pictures."""

from dataclasses import dataclass, replace
from typing import Literal

from cyclopts import Parameter

from compress.core.options import Making
from compress.core.store import Store
from compress.core.types import Artifact


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Making):
    """Flags of `compress export`."""

    model: str = ""
    """Id, id prefix or name; the newest artifact of format safetensors when not given."""
    format: Literal["onnx"] = "onnx"
    """Format to write."""


def run(options: Options = Options()) -> Artifact | None:
    """Write an artifact in another format, checked against the original on real pictures."""
    from compress.jobs.desk import found, planned_only, stage, tell
    from compress.jobs.models import export_onnx, pick

    store = Store(options.store)
    parent = pick(store, options.model, wanted="artifact of format safetensors", format="safetensors")
    planned = stage("export", options, parent=parent, resolved={"data": parent.options.get("data", [])})
    if planned_only(options, planned, f"export {parent.id} ({parent.name}) to {options.format}"):
        return None
    artifact = found(store, planned, options)
    if artifact is None:
        with store.draft() as draft:
            dynamic = export_onnx(store, parent, draft / "model.onnx")
            record = planned.artifact(
                **{name: getattr(parent, name) for name in _CARRIED},
                name=options.name or f"{parent.name}-onnx",
                format="onnx",
                input=replace(parent.input, dynamic=dynamic),
            )
            artifact = store.publish(draft, record)
    tell(options, artifact, store)
    return artifact


# what an export leaves as it was
_CARRIED = ("kind", "task", "network", "network_options", "dtype", "output", "parameters", "macs", "metrics", "seed")
