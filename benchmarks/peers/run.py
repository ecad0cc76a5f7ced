"""Runs the peers: quantize, score beside float32, time all files in turns; the result so far is kept after each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.peers.made import Job, Made, make
from benchmarks.peers.measure import Pictures, Scores, score, time_in_turns, times_faster
from benchmarks.peers.runners import Opener, openers, stored_bytes
from compress.core.console import log, progress
from compress.core.errors import CompressError, unknown
from compress.core.machine import this_machine
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec, to_json
from compress.core.whole import written_whole
from compress.jobs.desk import now
from compress.jobs.evaluate import input_at
from compress.jobs.models import as_onnx, pick
from compress.jobs.shrink import calibration_photos
from compress.kit.data.sets import Dataset, spread
from compress.kit.images import prepare
from compress.tasks import TASKS


@dataclass(frozen=True)
class Wish:
    """What to run, see the flags of `python -m benchmarks.peers`."""

    store: Path
    model: str
    data: tuple[str, ...]
    peers: tuple[str, ...]
    seeds: tuple[int, ...]
    calibration: int
    limit: int | None
    size: int | None
    threads: int
    repeats: int
    python: Path | None
    patience: float
    out: Path


def run(wish: Wish) -> dict[str, Any]:
    """Run the bench and write its result; returns it.

    Raises:
        CompressError: If the model or the data can't be used; a peer that fails is a row that says so.
    """
    for name in wish.peers:
        if name not in PEERS:
            raise unknown("peer", name, list(PEERS))
    store = Store(wish.store)
    artifact = pick(store, wish.model, wanted="float32 artifact", dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        return _Bench(wish, store, artifact, Path(folder)).run()


class _Bench:
    """One network, its photos, and what was measured so far."""

    def __init__(self, wish: Wish, store: Store, artifact: Artifact, folder: Path) -> None:
        self.wish, self.store, self.artifact, self.folder = wish, store, artifact, folder
        self.task = TASKS.get(artifact.task)
        self.source = as_onnx(store, artifact)
        spec = input_at(artifact, wish.size)
        # every runtime compiles for one shape: photos are brought to it, also where the network takes any
        self.spec: ImageSpec = replace(spec, fit="stretch") if spec.fit == "native" else spec
        self.shape = (1, spec.channels, spec.height, spec.width)
        self.test = spread(self.task.open(wish.data, "test", seed=0), wish.limit)
        self.pictures = Pictures(folder / "pictures")
        self.reference = Scores((), 0, ())
        self.files: dict[str, Path] = {}  # of the first seed, by peer
        self.entries: list[dict[str, Any]] = []
        self.latency: dict[str, dict[str, Any]] = {}  # of the float32 file, by runtime

    def run(self) -> dict[str, Any]:
        self.reference = self._score("float32", self._openers(self.source)["ort"], first=True)
        photos = {seed: self._photos(seed) for seed in self.wish.seeds}
        for name in self.wish.peers:
            self.entries.append(self._peer(name, photos))
            self._write()
        self._time()
        return self._write()

    def _photos(self, seed: int) -> Path:
        """Keep the calibration photos of a seed as one array, as every peer gets them."""
        chosen = calibration_photos(self.task, self.wish.data, seed, self.wish.calibration)
        path = self.folder / f"photos{seed}.npy"
        np.save(path, np.stack([self._prepared(chosen, index) for index in range(len(chosen))]))
        return path

    def _prepared(self, photos: Dataset, index: int) -> Any:
        return prepare(photos.original(index)["image"], self.spec)

    def _openers(self, file: Path) -> dict[str, Opener]:
        return openers(file, self.shape, self.wish.threads)

    def _score(self, name: str, opener: Opener, *, first: bool = False) -> Scores:
        runner = opener()
        with progress(f"score {name}", len(self.test)) as advance:
            scores = score(runner, self.spec, self.task, self.test, self.pictures, advance, first=first)
        runner.close()
        return scores

    def _peer(self, name: str, photos: dict[int, Path]) -> dict[str, Any]:
        """Quantize and score with every seed; the first failure ends it and is the reason."""
        entry: dict[str, Any] = {"peer": name, "tells": PEERS[name].tells, "seeds": [], "latency": {}, "why": ""}
        for seed, path in photos.items():
            log.info("%s, seed %d", name, seed)
            made = make(name, self._job(seed, path), self.folder / f"{name}-{seed}")
            try:
                entry["why"] = made.why
                if made.file is None:
                    return entry
                entry["seeds"].append(self._scored(name, seed, made, made.file))
            # a file that a peer wrote may fail to load or to run in any way
            except Exception as error:
                entry["why"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
                return entry
            self.files.setdefault(name, made.file)
        return entry

    def _job(self, seed: int, photos: Path) -> Job:
        wish = self.wish
        data = tuple(str(Path(each).resolve()) if Path(each).exists() else each for each in wish.data)
        return Job(self.store, self.artifact, self.source.resolve(), photos, seed, wish.calibration, wish.size,
                   data, wish.python, wish.patience)  # fmt: skip

    def _scored(self, name: str, seed: int, made: Made, file: Path) -> dict[str, Any]:
        every = self._openers(file)
        # our file for OpenVINO is scored there, like OpenVINO's own
        runtime = PEERS[name].runtime if PEERS[name].runtime in every else next(iter(every))
        scores = self._score(f"{name}, seed {seed}", every[runtime])
        return {
            "seed": seed,
            "seconds": made.seconds,
            "bytes": stored_bytes(file),
            "runtime": runtime,
            **scores.beside(self.reference),
        }

    def _time(self) -> None:
        """Time every file in every runtime that runs it, all in one interleaved run."""
        runners: dict[tuple[str, str], Any] = {}
        image = self._prepared(self.test, 0)[None]
        for name, file in {"float32": self.source, **self.files}.items():
            for runtime, opener in self._openers(file).items():
                if runtime == "torch":
                    continue  # fake quantization as it stands is nobody's deployment
                try:
                    runner = opener()
                    runner(image)
                    runners[name, runtime] = runner
                # as above: the reason is what the table shows
                except Exception as error:
                    self._of(name)[runtime] = {"why": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}
        seconds = time_in_turns({" ".join(pair): runner for pair, runner in runners.items()}, image, self.wish.repeats)
        for name, runtime in runners:
            mine = seconds[f"{name} {runtime}"]
            ratio = times_faster(seconds["float32 ort"], mine)
            self._of(name)[runtime] = {"ratio": ratio, "seconds": float(np.median(mine)), "repeats": mine}

    def _of(self, name: str) -> dict[str, Any]:
        if name == "float32":
            return self.latency
        found: dict[str, Any] = next(entry for entry in self.entries if entry["peer"] == name)["latency"]
        return found

    def _write(self) -> dict[str, Any]:
        wish = self.wish
        result = {
            "model": self.artifact.id,
            "name": self.artifact.name,
            "task": self.artifact.task,
            "data": [Path(each).name for each in wish.data],
            "fingerprint": self.test.fingerprint,
            "tested": len(self.test),
            "calibration": wish.calibration,
            "seeds": list(wish.seeds),
            "height": self.spec.height,
            "width": self.spec.width,
            "machine": to_json(this_machine(wish.threads)),
            "created": now(),
            "reference": {
                "bytes": stored_bytes(self.source),
                "loss": float(np.mean(self.reference.losses)),
                "dead": self.reference.dead,
            },
            "latency": self.latency,
            "peers": self.entries,
        }
        with written_whole(wish.out) as scratch:
            scratch.write_text(json.dumps(result, indent=1), encoding="utf-8")
        return result


def read(path: Path) -> dict[str, Any]:
    """Read what a run wrote.

    Raises:
        CompressError: If it is no such file.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert {"peers", "reference"} <= result.keys()
    except (OSError, ValueError, AssertionError, AttributeError) as error:
        raise CompressError(f"'{path}' is no result of benchmarks.peers", hint="write one with --out") from error
    return result


def as_names(words: Sequence[str]) -> tuple[str, ...]:
    """Split comma-separated words."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())
