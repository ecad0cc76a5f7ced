"""Exports to TensorFlow's formats: what `compress export` and the browser benchmarks share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from compress.core import errors
from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError
from compress.core.machine import require
from compress.core.store import Store, digest
from compress.core.types import Artifact, ImageSpec, from_json, to_json
from compress.core.whole import written_whole_folder
from compress.formats.tfjs import Per, Weights
from compress.jobs.convert import RECORD, Request, Wish, as_text
from compress.jobs.models import as_onnx


def as_tfjs(
    store: Store, artifact: Artifact, weights: Weights = "float32", *, per: Per = "channel", size: int | None = None
) -> Path:
    """Return a folder with model.json: the artifact's own, or an export kept in the store's cache, made once.

    Beside the files lies ``export.json``: "input" and "output" (the specs the graph model wants) and "export" (how
    it was checked); see ``read_record``. An artifact of format tfjs has the same in its manifest.

    Raises:
        ArtifactError: If the artifact can't become a graph model.
        ParityError: If the export does not do what the artifact does.
    """
    if artifact.format == "tfjs":
        return store.folder(artifact)
    return cached(store, artifact, Wish("tfjs", weights, per, size))


def cached(store: Store, artifact: Artifact, wish: Wish) -> Path:
    """Return the folder of an export in the store's cache, made whole where it is not there yet."""
    kept = store.root / "cache" / digest([artifact.id, artifact.sha256, to_json(wish)])
    if (kept / RECORD).is_file():
        return kept
    with written_whole_folder(kept) as draft:
        export(store, artifact, draft, wish)
    return kept


def export(store: Store, artifact: Artifact, folder: Path, wish: Wish) -> None:
    """Export an artifact into ``folder``, its record in ``export.json`` there; in a process of its own.

    A graph model of fewer bits is made from the float32 one, which is kept in the store's cache.

    Raises:
        ArtifactError: If the artifact can't become such a file.
        ParityError: If the export does not do what the artifact does.
        MissingExtraError: If TensorFlow is not installed.
    """
    require("web")
    refuse_integers(artifact)
    base = ""
    if wish.format == "tfjs" and wish.weights != "float32":
        base = str(cached(store, artifact, Wish("tfjs", size=wish.size, tolerance=wish.tolerance)))
    log.info("export %s to %s (%s): TensorFlow takes a while", artifact.name, wish.format, wish.weights)
    source = as_onnx(store, artifact)
    run_apart(Request(str(store.root), artifact.id, str(source), str(folder), wish, base))


def refuse_integers(artifact: Artifact) -> None:
    """Refuse an int8 file.

    Raises:
        ArtifactError: With the command for the storage-quantized export of its float parent.
    """
    if artifact.dtype == "int8":
        parent = artifact.parent or "the float32 model it was made from"
        raise ArtifactError(
            f"{artifact.name} multiplies int8 integers, which neither TF.js nor its formats here do",
            hint=f"compress export --format tfjs --weights uint8 --model {parent} stores its float parent as small; "
            "benchmarks run --target wasm --runtime ort-web runs the int8 file itself",
        )


def run_apart(request: Request) -> None:
    """Run an export in a process of its own.

    Raises:
        CompressError: What went wrong there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        order, answer = Path(scratch) / "request.json", Path(scratch) / "error.json"
        order.write_text(as_text(request), encoding="utf-8")
        command = [sys.executable, "-m", "compress.jobs.convert", str(order), str(answer)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
        with (Path(scratch) / "log").open("w+", encoding="utf-8", errors="replace") as noise:
            done = subprocess.run(command, stdout=noise, stderr=noise, env={**os.environ, **quiet}, check=False)
            noise.seek(0)
            said = noise.read().strip().splitlines()[-1:]
        if answer.is_file():
            told = json.loads(answer.read_text(encoding="utf-8"))
            raise cast("type[CompressError]", getattr(errors, told["kind"]))(told["what"], hint=told["hint"])
        if done.returncode:
            raise ArtifactError(f"the export ended with exit code {done.returncode}: {' '.join(said)[:300]}",
                                hint="-9 means it ran out of memory")  # fmt: skip


def read_record(folder: Path) -> tuple[ImageSpec, ImageSpec, dict[str, Any]]:
    """Return what an export wants, what it gives, and how it was made."""
    found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return from_json(ImageSpec, found["input"]), from_json(ImageSpec, found["output"]), found["export"]
