"""A fresh process that loads one model on one target and does what it is told, one JSON line at a time."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks.targets import TARGETS
from compress.core.errors import CompressError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec, from_json
from compress.kit.infer import at_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.formats.base import Runner
    from compress.kit.data.sets import Dataset

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
        target = TARGETS.get(request["target"])
        target.start()
        path = Path(request["path"]) if request["path"] else None
        before, start = _memory(), time.perf_counter()
        self.runner = target.open(self.store, self.artifact, path, request["threads"])
        seconds = time.perf_counter() - start
        self.opened.callback(self.runner.close)
        return {"seconds": seconds, "before": before, "describe": dict(self.runner.describe)}

    def run(self, request: Reply) -> Reply:
        """Infer "count" times; "seconds" of each, from an array in host memory to an array in host memory."""
        return {"seconds": [self._seconds() for _ in range(request["count"])]}

    def _seconds(self) -> float:
        start = time.perf_counter()
        self.runner(self.image)
        return time.perf_counter() - start

    def memory(self, request: Reply) -> Reply:  # noqa: ARG002
        """Largest resident size of this process so far, in bytes; ask before ``evaluate``, which imports torch."""
        return {"peak": _peak_memory()}

    def evaluate(self, request: Reply) -> Reply:
        """Score the data set and keep sample pictures: "metrics", "losses" of each image, "data" its fingerprint."""
        from compress.jobs.evaluate import evaluate, keep_pictures
        from compress.tasks import TASKS

        task = TASKS.get(self.artifact.task)
        data = self._data(request)
        scored = evaluate(self.runner, self.spec, task, data, lambda _="": self.tell({"step": True}))
        keep_pictures(self.store, self.artifact, self.runner, self.spec, task, data)
        return {"metrics": scored.metrics, "losses": scored.losses, "data": data.fingerprint}

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
