"""Everything `compress inspect` tells of one ONNX file: gathered here, written down and drawn beside."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compress.core.errors import ArtifactError
from compress.core.machine import commit, this_machine, versions
from compress.core.store import Store
from compress.core.types import Artifact, File, ImageSpec
from compress.jobs.desk import now
from compress.jobs.evaluate import input_at
from compress.jobs.inspect_ranges import Ranges, look
from compress.jobs.models import as_onnx, pick
from compress.kit.ship.anatomy import Anatomy, dissect
from compress.kit.ship.arithmetic import Work, heavy, with_fused
from compress.kit.ship.count import count_onnx_parameters
from compress.kit.ship.external import external_files
from compress.kit.ship.halves import HalfWeights, half_weights
from compress.kit.ship.loading import load, quantized
from compress.kit.ship.redundant import Finding, redundancies
from compress.kit.ship.runtime import read_onnx
from compress.tasks import TASKS

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Subject:
    """What is inspected: an ONNX file, and the artifact it is, was exported from, or would be.

    ``origin`` says in words how the two belong together; ``parent`` is what the artifact was made from, if it is here.
    """

    path: Path
    artifact: Artifact
    origin: str
    parent: Artifact | None = None


@dataclass(frozen=True)
class Report:
    """All that is known of a file; bytes and multiply-accumulates are of one image at ``size`` (height, width)."""

    subject: Subject
    anatomy: Anatomy
    size: tuple[int, int]
    download: dict[str, int]  # bytes of its files, compressed beforehand
    works: tuple[Work, ...]
    refused: str  # why ONNX Runtime can't load it, or ""
    quantized: bool
    findings: tuple[Finding, ...]
    weights: tuple[HalfWeights, ...]
    ranges: Ranges | None


def find(store: Store, reference: str, task: str, *, dry: bool = False) -> Subject:
    """Return what ``reference`` means; an .onnx file is taken as it is, without the store.

    Args:
        store: Where to look.
        reference: Id, id prefix, name, folder of an artifact, an .onnx file, or "" for the newest artifact that is or
            becomes an ONNX file.
        task: Whose pictures an .onnx file takes.
        dry: Export nothing: what would be exported is named by its folder.

    Raises:
        ArtifactError: If there is no such thing, or it can't become an ONNX file.
    """
    if reference.endswith(".onnx"):
        path = Path(reference)
        return Subject(path, _record(path, task), "a file outside the store")
    wanted = "artifact that is or becomes an ONNX file"
    artifact = pick(store, reference, wanted=wanted, format=("onnx", "safetensors"))
    parent = next((each for each in store.artifacts() if each.id == artifact.parent), None)
    if artifact.format not in ("onnx", "safetensors"):
        raise ArtifactError(
            f"{artifact.name} ({artifact.id}) is a {artifact.format} file: inspect reads ONNX files, and what "
            "becomes one",
            hint=f"compress inspect {parent.id} looks at what it was made from" if parent else "name what it came from",
        )
    own = artifact.format == "onnx"
    path = store.folder(artifact) if dry and not own else as_onnx(store, artifact)
    return Subject(path, artifact, "its own file" if own else "exported from its torch weights", parent)


def examine(
    store: Store, subject: Subject, *, size: int | None = None, data: Sequence[str] = (), photos: int = 8
) -> Report:
    """Take a subject apart.

    Args:
        store: Where its parent lies.
        subject: What to look at.
        size: Pixels a side; the network's own when None.
        data: Photos to look at ranges with; none: ranges are left out.
        photos: How many of them.

    Raises:
        ArtifactError: If the file is damaged or keeps weights outside its folder.
        UsageError: If the network runs at one size only and another is asked.
    """
    spec = input_at(subject.artifact, size)
    model = read_onnx(subject.path)
    external = external_files(subject.path)
    sides = (spec.height, spec.width)
    loading = load(model)
    works = with_fused(heavy(model, sides, _reasons(subject.artifact)), loading)
    files = [subject.path, *(subject.path.parent / name for name in external)]
    ranges = look(store, subject.artifact, subject.parent, model, spec, data, photos) if data else None
    return Report(
        subject=subject,
        anatomy=dissect(model, subject.path.stat().st_size, external),
        size=sides,
        download=_weigh(files),
        works=tuple(works),
        refused=loading.error,
        quantized=quantized(model),
        findings=tuple(redundancies(model)),
        weights=tuple(half_weights(model)),
        ranges=ranges,
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as plain JSON types: bytes, multiply-accumulates, counts."""
    subject, anatomy = report.subject, report.anatomy
    artifact, parent = subject.artifact, subject.parent
    record = asdict(report)
    tensors = record["anatomy"].pop("tensors")
    return {
        "model": artifact.id,
        "name": artifact.name,
        "file": str(subject.path),
        "origin": subject.origin,
        "format": artifact.format,
        "dtype": artifact.dtype,
        "task": artifact.task,
        **record["anatomy"],
        "bytes": {kind: anatomy.bytes_by(kind) for kind in ("role", "dtype", "operator")},
        "compression": {
            "values": anatomy.values,
            "float32_bytes": anatomy.float32_bytes,
            "stored_bytes": anatomy.stored_bytes,
            "theoretical": anatomy.theoretical,
            "real": anatomy.real,
            "parent": None if parent is None else {
                "model": parent.id,
                "name": parent.name,
                "bytes": parent.bytes,
                "times": parent.bytes / anatomy.file_bytes,
            },
            "download": report.download,
        },
        "size": list(report.size),
        "macs": macs_of(report.works),
        "macs_integer": macs_of([work for work in report.works if work.integer]),
        "heavy": record["works"],
        "onnxruntime": {"loads": not report.refused, "error": report.refused},
        "redundant": record["findings"],
        "float16": {"weights": record["weights"], "ranges": record["ranges"]},
        "tensors": tensors,
    }  # fmt: skip


def macs_of(works: Sequence[Work]) -> int | None:
    """Multiply-accumulates of operators together; None where those of one are unknown."""
    counts = [work.macs for work in works]
    return None if None in counts else sum(count or 0 for count in counts)


def _record(path: Path, task: str) -> Artifact:
    """Describe a file that is in no store as if it were: what it takes, as far as the task doesn't know better."""
    model = read_onnx(path)
    anatomy = dissect(model, path.stat().st_size)
    known = TASKS.get(task)
    sizes = anatomy.bytes_by("dtype")
    return Artifact(
        id="",
        name=path.stem,
        kind="foreign",
        task=task,
        network="",
        network_options={},
        format="onnx",
        dtype=next(iter(sizes), "float32"),
        method="",
        options={},
        parent="",
        parent_sha256="",
        teacher="",
        key="",
        input=_image(anatomy, known.input),
        output=replace(known.output, name=anatomy.outputs[0].name if anatomy.outputs else ""),
        files=(File(path.name, "", path.stat().st_size),),
        parameters=count_onnx_parameters(model),
        macs=0,
        data="",
        metrics={},
        machine=this_machine(),
        seed=0,
        versions=versions(),
        commit=commit(),
        created=now(),
        seconds=0.0,
    )


def _image(anatomy: Anatomy, spec: ImageSpec) -> ImageSpec:
    """The task's image at the sides of the file's first input, where that fixes them."""
    shape = anatomy.inputs[0].shape if anatomy.inputs else ()
    if len(shape) != 4:
        return spec
    _, channels, height, width = (side if isinstance(side, int) and side > 0 else None for side in shape)
    return replace(
        spec,
        name=anatomy.inputs[0].name,
        channels=channels or spec.channels,
        height=height or spec.height,
        width=width or spec.width,
        dynamic=height is None and width is None,
        fit="stretch" if spec.fit == "native" else spec.fit,
    )


def _reasons(artifact: Artifact) -> dict[str, str]:
    """Why nodes were left in float, by name, as the artifact's maker wrote it down."""
    notes = artifact.notes.get("quantization")
    left = notes.get("left") if isinstance(notes, dict) else None
    return {str(name): str(why) for name, why in left.items()} if isinstance(left, dict) else {}


def _weigh(files: Sequence[Path]) -> dict[str, int]:
    """Bytes that a web server would send: gzip -9, and brotli -q 9 where a package for it is installed."""
    weights = {"gzip": sum(_squeezed(file, zlib.compressobj(9, wbits=31)) for file in files)}
    if importlib.util.find_spec("brotli") is not None:
        brotli = importlib.import_module("brotli")
        weights["brotli"] = sum(_squeezed(file, _Brotli(brotli.Compressor(quality=9))) for file in files)
    return weights


class _Brotli:
    """A brotli compressor with the methods of zlib's."""

    def __init__(self, compressor: Any) -> None:
        self._compressor = compressor

    def compress(self, data: bytes) -> bytes:
        return bytes(self._compressor.process(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.finish())


def _squeezed(file: Path, compressor: Any) -> int:
    with file.open("rb") as stream:
        size = sum(len(compressor.compress(chunk)) for chunk in iter(lambda: stream.read(_CHUNK), b""))
    return size + len(compressor.flush())
