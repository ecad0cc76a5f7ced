"""Write an artifact in another format, checked against the original on real pictures."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from compress.core.errors import UsageError
from compress.core.options import Making, positive
from compress.core.store import Store
from compress.core.types import Artifact

# how each format can store its weights
_WEIGHTS = {
    "onnx": ("float32",),
    "saved_model": ("float32",),
    "litert": ("float32", "float16"),
    "tfjs": ("float32", "float16", "uint16", "uint8"),
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Making):
    """Flags of `compress export`."""

    model: str = ""
    """Id, id prefix, name or any .onnx file; the newest artifact of format safetensors when not given."""
    format: Literal["onnx", "tfjs", "saved_model", "litert"] = "onnx"
    """onnx. tfjs: graph model for browsers. saved_model: TensorFlow. litert: TensorFlow Lite."""
    weights: Literal["float32", "float16", "uint16", "uint8"] = "float32"
    """How weights are stored, for tfjs (and litert: float16); the arithmetic stays float32."""
    per: Literal["channel", "tensor"] = "channel"
    """What has a range of its own in uint8 and uint16: each output channel of a filter, or each whole filter."""
    size: int | None = None
    """Pixels a side to fix; free where the network allows it when not given."""
    tolerance: float = 1e-3
    """Largest difference from the original that passes; float16 and uint16 may be off by 5e-3."""
    opset: int | None = None
    """Operator set of an onnx file; the exporter's own when not given."""


def run(options: Options = Options()) -> Artifact | None:
    """Write an artifact in another format, checked against the original on real pictures."""
    _check(options)
    from compress.jobs.desk import found, planned_only, stage, tell
    from compress.jobs.models import pick

    store = Store(options.store)
    parent = pick(store, options.model, wanted="artifact of format safetensors", format="safetensors")
    if options.format != "onnx":
        from compress.jobs.export import refuse_integers

        refuse_integers(parent)
    planned = stage("export", options, parent=parent, resolved={"data": parent.options.get("data", [])})
    if planned_only(options, planned, f"export {parent.id} ({parent.name}) to {options.format}"):
        return None
    artifact = found(store, planned, options)
    if artifact is None:
        with store.draft() as draft:
            write = _onnx if options.format == "onnx" else _tensorflow
            made = write(store, options, parent, draft)
            record = planned.artifact(**{name: getattr(parent, name) for name in _CARRIED} | made)
            artifact = store.publish(draft, record)
    tell(options, artifact, store)
    return artifact


# what an export leaves as it was
_CARRIED = (
    "kind", "task", "network", "network_options", "dtype", "input", "output", "parameters", "macs", "metrics", "seed",
)  # fmt: skip


def _data(parent: Artifact) -> tuple[str, ...]:
    """Return the data a model was made with, builtin where that is not here."""
    folders = tuple(parent.options.get("data", ()))
    return folders if folders and all(each == "builtin" or Path(each).is_dir() for each in folders) else ("builtin",)


def _check(options: Options) -> None:
    positive(size=options.size, tolerance=options.tolerance, opset=options.opset)
    known = _WEIGHTS[options.format]
    if options.weights not in known:
        raise UsageError(
            f"--format {options.format} stores {' or '.join(known)}, --weights {options.weights} was asked",
            hint="--format tfjs stores them all",
        )
    if options.opset is not None and options.format != "onnx":
        raise UsageError(f"--opset is for --format onnx, found --format {options.format}", hint="leave it out")


def _onnx(store: Store, options: Options, parent: Artifact, draft: Path) -> dict[str, Any]:
    from compress.jobs.evaluate import input_at
    from compress.jobs.models import export_onnx

    spec = input_at(parent, options.size)
    path = draft / "model.onnx"
    dynamic = export_onnx(store, parent, path, size=options.size, opset=options.opset, tolerance=options.tolerance)
    return {"name": options.name or f"{parent.name}-onnx", "format": "onnx", "input": replace(spec, dynamic=dynamic)}


def _tensorflow(store: Store, options: Options, parent: Artifact, draft: Path) -> dict[str, Any]:
    from compress.jobs.convert import RECORD, Wish
    from compress.jobs.export import cached, export, read_record

    assert options.format != "onnx"
    wish = Wish(options.format, options.weights, options.per, options.size, options.tolerance)
    if options.format == "tfjs" and options.weights == "float32":
        # kept: the storage variants are made from it
        shutil.copytree(cached(store, parent, wish), draft, dirs_exist_ok=True)
    else:
        export(store, parent, draft, replace(wish, data=_data(parent)))
    given, made, notes = read_record(draft)
    (draft / RECORD).unlink()
    stored = "" if options.weights == "float32" else f"-{options.weights}"
    return {
        "name": options.name or f"{parent.name}-{options.format}{stored}",
        "format": options.format,
        "dtype": options.weights,
        "input": given,
        "output": made,
        "notes": {"export": notes},
        # what fewer bits cost stands in the notes; the parent's scores are not this one's
        **({"metrics": {}} if stored else {}),
    }
