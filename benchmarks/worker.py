"""A fresh process that loads one model on one target and does what it is told, one JSON line at a time."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks.targets import TARGETS
from benchmarks.targets.base import How, Remote
from compress.core.errors import CompressError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec, from_json
from compress.kit.infer import at_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.formats.base import Runner
    from compress.jobs.evaluate import Keep
    from compress.kit.data.sets import Dataset
    from compress.tasks.base import Score

Reply = dict[str, Any]


class Worker:
    """One model on one target: ``load`` comes first, then ``run``, ``memory`` and ``evaluate`` as often as wanted.

    Args:
        tell: Sends a line to the parent before the reply, to say that a step is done.
        opened: Closes what was opened when the worker ends.
    """

    artifact: Artifact
    store: Store
    spec: ImageSpec
    runner: Runner
    image: NDArray[np.float32]

    def __init__(self, tell: Callable[[Reply], None], opened: ExitStack) -> None:
        self.tell = tell
        self.opened = opened

    def load(self, request: Reply) -> Reply:
        """Import the framework, then load the model: "seconds" of the loading, "before": bytes in use before it."""
        self.artifact = from_json(Artifact, request["artifact"])
        self.store = Store(Path(request["store"]))
        self.spec = at_size(self.artifact.input, request["height"], request["width"])
        self.image = _noise(self.spec, request["batch"], request["seed"])
        target = TARGETS.get(request["target"]).configured(How(**request["how"]))
        target.start()
        path = Path(request["path"]) if request["path"] else None
        before, start = _memory(), time.perf_counter()
        self.runner = target.open(self.store, self.artifact, path, request["threads"])
        seconds = time.perf_counter() - start
        self.opened.callback(self.runner.close)
        reply = {"seconds": seconds, "before": before, "describe": dict(self.runner.describe)}
        if isinstance(self.runner, Remote):
            reply |= {"seconds": self.runner.load_seconds, "before": 0, "start": self.runner.start_seconds}
        return reply

    def run(self, request: Reply) -> Reply:
        """Infer "count" times; "seconds" of each, from an array in host memory to an array in host memory."""
        if isinstance(self.runner, Remote):
            return {"seconds": self.runner.seconds(self.image, request["count"])}
        return {"seconds": [self._seconds() for _ in range(request["count"])]}

    def longest(self, request: Reply) -> Reply:
        """Infer once at "side" pixels a side, or at the network's own where it has only one: "seconds" and sides."""
        side = request["side"]
        spec = at_size(self.spec, side, side) if self.artifact.input.dynamic else self.spec
        image = _noise(spec, 1, request["seed"])
        if isinstance(self.runner, Remote):
            [seconds] = self.runner.seconds(image, 1)
        else:
            start = time.perf_counter()
            self.runner(image)
            seconds = time.perf_counter() - start
        return {"seconds": seconds, "height": spec.height, "width": spec.width}

    def _seconds(self) -> float:
        start = time.perf_counter()
        self.runner(self.image)
        return time.perf_counter() - start

    def memory(self, request: Reply) -> Reply:  # noqa: ARG002
        """Largest resident size of this process so far, in bytes; ask before ``evaluate``, which imports torch.

        Of a runner in a program of its own: that program's, its "kinds" of memory, and what it "download"s.
        """
        if isinstance(self.runner, Remote):
            kinds = self.runner.memory()
            return {"peak": kinds.pop("process", 0), "kinds": kinds, "download": self.runner.download()}
        return {"peak": _peak_memory(), "kinds": {}, "download": {}}

    def evaluate(self, request: Reply) -> Reply:
        """Score the data set: "metrics", "losses" of each image, "data" its fingerprint; sample pictures are kept.

        The predictions for "kept" photos spread over the set are written to the folder "keep", "mae" is theirs; with
        "only_kept" nothing else is looked at.
        """
        from compress.jobs.evaluate import evaluate, keep_pictures
        from compress.kit.data.sets import Subset, spread_indices
        from compress.tasks import TASKS

        task, data = TASKS.get(self.artifact.task), self._data(request)
        chosen = spread_indices(len(data), request["kept"])
        keeper = _Keeper(Path(request["keep"]), chosen)
        if request.get("only_kept"):
            keeper.kept = range(len(chosen))
            data = Subset(data, chosen)
        else:
            keeper.draw = keep_pictures(self.store, self.artifact, task, data)
        scored = evaluate(self.runner, self.spec, task, data, lambda _="": self.tell({"step": True}), keep=keeper)
        mae = task.summarize(keeper.scores)["mae"] if keeper.scores else 0.0
        return {"metrics": scored.metrics, "losses": scored.losses, "data": data.fingerprint, "mae": mae}

    def baseline(self, request: Reply) -> Reply:
        """Score what needs no network on the same photos: "baseline", its "name" and "metrics", empty for none."""
        from compress.jobs.evaluate import evaluate_baseline
        from compress.tasks import TASKS

        task = TASKS.get(self.artifact.task)
        found = evaluate_baseline(task, request["data"], request["seed"], self._data(request), lambda _="": None)
        return {"baseline": {"name": found[0], "metrics": found[1].metrics} if found else {}}

    def _data(self, request: Reply) -> Dataset:
        from compress.kit.data.sets import spread
        from compress.tasks import TASKS

        task = TASKS.get(self.artifact.task)
        return spread(task.open(request["data"], request["split"], seed=request["seed"]), request["limit"])


@dataclass
class _Keeper:
    """Writes the predictions of the images at ``kept``, numbered in that order, and keeps their scores."""

    folder: Path
    kept: Sequence[int]
    scores: list[Score] = field(default_factory=list)
    draw: Keep | None = None  # is handed every prediction too

    def __call__(self, index: int, prediction: NDArray[np.float32], score: Score) -> None:
        if self.draw is not None:
            self.draw(index, prediction, score)
        if index in self.kept:
            import numpy as np

            np.save(self.folder / f"{len(self.scores):03d}.npy", prediction)
            self.scores.append(score)


def _noise(spec: ImageSpec, batch: int, seed: int) -> NDArray[np.float32]:
    """A photo of noise as the network is fed it, (batch, C, H, W)."""
    import numpy as np

    from compress.kit.images import prepare

    photo = np.random.default_rng(seed).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.repeat(prepare(photo, spec)[None], batch, axis=0))


def _memory() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak_memory() -> int:
    # Linux hands ru_maxrss down from parent to child, so a big parent would show here as a big model: VmHWM first.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def _serve(requests: TextIO, replies: TextIO) -> None:
    def tell(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    with ExitStack() as opened:
        worker = Worker(tell, opened)
        for line in requests:
            request = json.loads(line)
            tell(_answer(getattr(worker, request["do"]), request))


def _answer(do: Callable[[Reply], Reply], request: Reply) -> Reply:
    try:
        return do(request)
    except CompressError as error:
        return {"error": str(error)}
    except Exception as error:  # the parent decides what a failure means; the whole story goes to stderr
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def main() -> None:
    """Serve the parent until it closes our stdin.

    The pipes move to descriptors of our own first: what a library prints goes to stderr and can't garble a reply.
    """
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _serve(requests, replies)


if __name__ == "__main__":
    main()
