"""What a model costs in a browser beside time: bytes to download, bytes of memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from compress.core.errors import CompressError
from compress.core.web import find_node, web_folder

Weight = dict[str, int]
KINDS = ("raw", "gzip", "brotli")


def weigh(files: Sequence[Path]) -> Weight:
    """Return the bytes of files together: "raw", and each compressed beforehand with gzip -9 and brotli -q 9.

    That takes a while for the largest files, so weights are kept beside the npm packages, by sha256.
    """
    kept = _Kept(web_folder() / "node_modules" / ".cache" / "image-compress" / "weights.json")
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    fresh = [file for file in files if digests[file] not in kept.weights]
    if fresh:
        kept.add({digests[file]: weight for file, weight in zip(fresh, _compress(fresh), strict=True)})
    return {kind: sum(kept.weights[digest][kind] for digest in digests.values()) for kind in KINDS}


class _Kept:
    """Weights from earlier runs; a folder that can't be written to only costs time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights: dict[str, Weight] = {}
        with suppress(OSError, ValueError):
            self.weights = json.loads(path.read_text(encoding="utf-8"))

    def add(self, more: dict[str, Weight]) -> None:
        self.weights |= more
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(f".{psutil.Process().pid}")
            beside.write_text(json.dumps(self.weights), encoding="utf-8")
            beside.replace(self.path)


def _compress(files: Sequence[Path]) -> list[Weight]:
    command = [find_node(), str(web_folder() / "driver" / "weigh.mjs"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompressError(f"Node can't weigh the downloads: {done.stderr.strip().splitlines()[-1:]}")
    weights: list[Weight] = json.loads(done.stdout)
    return weights


def resident(processes: Sequence[psutil.Process]) -> int:
    """Return the most bytes that processes had resident, each at its own peak, together.

    What a process shares with others counts by its share (PSS), else Chromium's library would count ten times.
    """
    return sum(map(_peak, processes))


def _peak(process: psutil.Process) -> int:
    folder = Path("/proc") / str(process.pid)
    with suppress(OSError, KeyError, ValueError):
        highest = _fields(folder / "status")["VmHWM"]
        with suppress(OSError):  # a sandboxed process hides it
            now = _fields(folder / "smaps_rollup")
            return highest - (now["Rss"] - now["Pss"])
        return highest
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[2:] == ["kB"]}
