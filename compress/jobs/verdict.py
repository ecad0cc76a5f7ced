"""No regrets: a quantized file is measured beside its parent, and rejected when it is not worth having."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.formats.base import Runner
from compress.kit.intervals import Interval, relative_change, speedup

LEAST_SHRINK = 3.6  # times smaller an int8 file must be
LOSS_LIMIT = 0.05  # of the parent's loss, where the user gave none
_SECONDS = 20.0  # spent on timing
_REPEATS = (7, 30)  # at least, at most


@dataclass(frozen=True)
class Verdict:
    """What a child is worth beside its parent, both measured in this run.

    ``rejected`` has the reasons, each with what to try; empty when it is worth having. ``speed`` is how many times
    faster it is; None where it was not timed.
    """

    rejected: tuple[str, ...]
    shrink: float  # times smaller
    loss: Interval | None  # relative change of the loss, paired over photos
    speed: Interval | None
    runtime: str

    def record(self) -> dict[str, Any]:
        """As plain JSON types, for the manifest."""
        return asdict(self)


def in_turns(parent: Runner, child: Runner, image: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Time two runners on one image (N, C, H, W), one after the other and over again; seconds of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for runner in (parent, child):
        runner(image)  # the first run allocates
    began = time.monotonic()
    while len(seconds[0]) < _REPEATS[0] or (len(seconds[0]) < _REPEATS[1] and time.monotonic() - began < _SECONDS):
        for runner, list_ in zip((parent, child), seconds, strict=True):
            start = time.perf_counter()
            runner(image)
            list_.append(time.perf_counter() - start)
    return seconds


def judge(
    *,
    dtype: str,
    runtime: str,
    bytes_before: int,
    bytes_after: int,
    losses: tuple[Sequence[float], Sequence[float]],
    dead: tuple[int, int],
    seconds: tuple[Sequence[float], Sequence[float]] | None,
    limit: float | None,
) -> Verdict:
    """Judge a child by its parent; pairs are (parent, child).

    Args:
        dtype: "int8" must be smaller and faster; the rest is made for size alone.
        runtime: That was timed.
        bytes_before: Of the parent as float32.
        bytes_after: Of the child.
        losses: Of each photo.
        dead: Photos whose mask is dead.
        seconds: Of runs taken in turns.
        limit: Largest relative increase of the loss; None for ``LOSS_LIMIT``.
    """
    loss = relative_change(*losses) if losses[0] else None
    speed = speedup(*seconds) if seconds is not None else None
    shrink = bytes_before / bytes_after
    allowed = LOSS_LIMIT if limit is None else limit
    reasons = []
    if dtype == "int8" and shrink < LEAST_SHRINK:
        reasons.append(f"{shrink:.2f}x smaller, wanted {LEAST_SHRINK}x: its weights are too few to outweigh the graph "
                       "around them; try --dtype int4 or compress prune")  # fmt: skip
    if loss is not None and loss.value > allowed:
        reasons.append(f"loss {loss.value:+.2%}, allowed {allowed:+.2%}; "
                       f"try --max-loss-increase {max(allowed, 0.001):.1%} --tune full, or compress qat")  # fmt: skip
    if dead[1] > dead[0]:
        reasons.append(f"{dead[1] - dead[0]} dead masks that its parent has not; try --tune full, or compress qat")
    # slower for certain: the whole interval is
    if dtype == "int8" and speed is not None and speed.beyond(1.0) < 0:
        reasons.append(f"{speed.value:.2f}x the speed of its parent in {runtime}; try --runtime openvino, "
                       "or --dtype int8w for size alone")  # fmt: skip
    return Verdict(tuple(reasons), shrink, loss, speed, runtime)
