"""Has a peer quantize in a process of its own, or ours by the public command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from compress.core.store import Store
from compress.core.types import Artifact

ROOT = Path(__file__).resolve().parents[2]
_SETUP = "set up a venv with benchmarks/peers/requirements.txt and name its Python with --python"


@dataclass(frozen=True)
class Job:
    """What every peer gets: one network, and photos of one seed."""

    store: Store
    artifact: Artifact
    source: Path  # float32 ONNX
    photos: Path  # .npy, (N, C, H, W), prepared
    seed: int
    calibration: int
    size: int | None
    data: tuple[str, ...]
    python: Path | None  # of the venv with the packages that are not ours
    patience: float  # seconds


@dataclass(frozen=True)
class Made:
    """A peer's file, or why there is none. ``seconds``: quantizing alone, imports apart."""

    file: Path | None = None
    seconds: float = 0.0
    why: str = ""


def make(name: str, job: Job, folder: Path) -> Made:
    """Let a peer quantize into ``folder``, which is made; never raises for what a peer does."""
    folder.mkdir(parents=True)
    if not PEERS[name].module:
        return _ours(name, job, folder)
    if PEERS[name].elsewhere and (job.python is None or not job.python.is_file()):
        found = f"no Python at {job.python}" if job.python else "its packages are not ours"
        return Made(why=f"{found}: {_SETUP}")
    _describe(job, folder / "network.json")
    python = str(job.python) if PEERS[name].elsewhere else sys.executable
    command = [python, "-W", "ignore", "-m", "benchmarks.peers.child", name,
               str(job.source), str(job.photos), str(folder)]  # fmt: skip
    why = _run(command, folder / "log.txt", job.patience)[0]
    record = folder / "result.json"
    if not record.is_file():
        return Made(why=why or "its process left nothing")
    result: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    if "why" in result:
        return Made(why=result["why"])
    return Made(folder / result["file"], float(result["seconds"]))


def _describe(job: Job, record: Path) -> None:
    """Say how to rebuild the torch network, for peers that read no ONNX; nothing of a foreign file."""
    artifact = job.artifact
    if artifact.format == "safetensors":
        weights = next(entry.path for entry in artifact.files if entry.path.endswith(".safetensors"))
        known = {
            "network": artifact.network,
            "options": dict(artifact.network_options),
            "weights": str((job.store.folder(artifact) / weights).resolve()),
            "task": artifact.task,
        }
        record.write_text(json.dumps(known), encoding="utf-8")


def _run(command: Sequence[str], log: Path, patience: float) -> tuple[str, str]:
    """Run a command; returns why it failed, "" where it did not, and its stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("w", encoding="utf-8") as errors:
        try:
            done = subprocess.run(
                command,
                cwd=log.parent,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not done after {patience:.0f} s", ""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (f"exit code {done.returncode}: {said[-1] if said else ''}"[:300] if done.returncode else ""), done.stdout


def _ours(name: str, job: Job, folder: Path) -> Made:
    """Run `compress quantize` on a store that holds a copy of the network alone."""
    copy = Store(folder / "store")
    shutil.copytree(job.store.folder(job.artifact), copy.folder(job.artifact))
    command = [sys.executable, "-m", "compress", "quantize", "--model", job.artifact.id, "--dtype", "int8",
               "--store", str(copy.root), "--seed", str(job.seed), "--calibration", str(job.calibration),
               "--runtime", PEERS[name].runtime, "--name", name, "--force", "--json", "--quiet"]  # fmt: skip
    command += [word for folder_ in job.data for word in ("--data", folder_)]
    command += ["--engine", PEERS[name].engine] if PEERS[name].engine else []
    command += ["--size", str(job.size)] if job.size else []
    why, said = _run(command, folder / "log.txt", job.patience)
    if why:
        return Made(why=why)
    made = json.loads(said.strip().splitlines()[-1])
    file = next(entry["path"] for entry in made["files"] if entry["path"].endswith(".onnx"))
    return Made(copy.root / made["id"] / file, float(made["seconds"]))
