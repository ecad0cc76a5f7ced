"""Models by reference: pick an artifact, open it in its format, rebuild its module, get it as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from compress.core.console import log
from compress.core.errors import ArtifactError
from compress.core.networks import is_reference
from compress.core.store import MANIFEST, Store, digest, read_manifest
from compress.core.types import Artifact
from compress.core.whole import written_whole
from compress.formats import FORMATS
from compress.formats.base import Runner
from compress.formats.onnx import Onnx
from compress.formats.safetensors import Safetensors
from compress.jobs.shipped import FIRST, bring, shipped_names
from compress.kit.images import prepare
from compress.kit.infer import at_size
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

if TYPE_CHECKING:
    from compress.jobs.foreign import Reading


def pick(
    store: Store,
    reference: str,
    *,
    wanted: str = "artifact",
    reading: Reading | None = None,
    shipped: bool = False,
    **fields: str | tuple[str, ...],
) -> Artifact:
    """Return the artifact meant by ``reference`` and say which it is.

    Args:
        store: Where to look.
        reference: Id, id prefix, name, folder of an artifact, a network that comes with the package, an .onnx file or
            package.module:function that builds a network (both imported on the way), or "" for the newest artifact
            whose fields are as given.
        wanted: What to call it when there is none.
        reading: How to read a foreign file; the task's own preprocessing when None.
        shipped: Whether "" may be the network that comes with the package, where the store has nothing.
        fields: What the newest must be when nothing is named.
    """
    if not reference:
        artifact = (
            bring(store, FIRST)
            if shipped and FIRST in shipped_names() and not store.artifacts()
            else store.newest(wanted, **fields)
        )
    elif reference in shipped_names() and reference not in {known.name for known in store.artifacts()}:
        artifact = bring(store, reference)
    elif reference.endswith(".onnx"):
        from compress.jobs.foreign import Reading, import_onnx

        artifact = import_onnx(store, Path(reference), reading or Reading())
    elif is_reference(reference):
        from compress.jobs.foreign import Reading
        from compress.jobs.modules import import_module

        artifact = import_module(store, reference, reading or Reading())
    elif (Path(reference) / MANIFEST).is_file():
        artifact = read_manifest(Path(reference) / MANIFEST)
        if store.folder(artifact).resolve() != Path(reference).resolve():
            raise ArtifactError(f"{reference} is not in the store {store.root}", hint="give its store with --store DIR")
        store.verify(artifact)
    else:
        artifact = store.get(reference)
    log.info("model: %s %s (%s, %s), made %s", artifact.id, artifact.name, artifact.format, artifact.dtype,
             artifact.created[:19])  # fmt: skip
    return artifact


def open_runner(store: Store, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
    """Open an artifact in its own format."""
    return FORMATS.get(artifact.format).load(store.folder(artifact), artifact, threads=threads, device=device)


def load_module(store: Store, artifact: Artifact) -> nn.Module:
    """Rebuild the torch module of an artifact, weights loaded, in eval mode.

    Raises:
        ArtifactError: If the artifact holds no torch weights.
    """
    if artifact.format != "safetensors":
        raise ArtifactError(
            f"{artifact.name} ({artifact.id}) is a {artifact.format} file and can't become a torch module",
            hint="name the artifact it was made from",
        )
    return Safetensors().module(store.folder(artifact), artifact)


def as_onnx(store: Store, artifact: Artifact) -> Path:
    """Return the artifact as an ONNX file of float32: its own, or an export checked against torch and kept beside.

    Raises:
        ParityError: If the export does not do what the module does.
    """
    if artifact.format == "onnx":
        return store.folder(artifact) / next(f.path for f in artifact.files if f.path.endswith(".onnx"))
    kept = store.root / "cache" / digest([artifact.id, artifact.sha256]) / "model.onnx"
    if not kept.is_file():
        export_onnx(store, artifact, kept)
    return kept


def export_onnx(
    store: Store,
    artifact: Artifact,
    path: Path,
    *,
    size: int | None = None,
    opset: int | None = None,
    tolerance: float = 1e-3,
) -> bool:
    """Export to ``path``, whole or not at all, with a parity check; returns whether other sizes run too.

    Args:
        store: Where the artifact lies.
        artifact: Torch weights.
        path: The file to write.
        size: Pixels a side to fix; None leaves height and width free where the network allows it.
        opset: Operator set; None takes the exporter's own.
        tolerance: Largest difference from torch that passes.
    """
    task = TASKS.get(artifact.task)
    module = Shipped(load_module(store, artifact), task.activate)
    spec = at_size(artifact.input, size, size) if size else artifact.input
    photos = task.open(["builtin"], "test")
    images = [prepare(photos.original(i)["image"], spec)[None] for i in range(2)]
    with written_whole(path) as temporary:
        export = Onnx().write(
            module,
            temporary,
            input=spec,
            output=artifact.output,
            size=(spec.height, spec.width),
            dynamic=size is None,
            opset=opset,
        )
        check_parity(module, temporary, images, tolerance)
    return export.dynamic
