"""A teacher's answers on disk: computed once, read back whenever the same picture comes again."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.console import log
from compress.core.store import digest

Ask = Callable[[Tensor], Sequence[Tensor]]  # images (N, C, H, W) to maps (N, ...), float32, no gradient
SLOT = "slot"  # key of a batch: int64 (N,), equal numbers are equal samples

_TRIALS = 3  # batches that are timed before the decision
_WORTH = 0.5  # share of the teacher's time that reading may take
_LARGEST = 65504.0  # of float16


@dataclass
class Answers:
    """Asks a teacher about batches, and keeps what it says where that is cheaper than asking again.

    Values are rounded to float16 whether they are kept or not, so that keeping changes nothing but the time. Rows are
    marked only when they are whole: a killed run leaves no half answer.

    Args:
        ask: The teacher.
        root: Folder of all kept answers, of this and other teachers.
        key: What decides the answers (teacher, data, augmentation, size), in plain JSON.
        slots: Different samples there will be; 0: none comes twice, nothing is kept.
        visits: How often each will come.
        limit: Bytes that ``root`` may hold. Older answers make room; slots beyond it are asked every time.
        keep: True or False to decide now, None to decide by the time of the first batches.
    """

    ask: Ask
    root: Path
    key: Mapping[str, Any]
    slots: int
    visits: float
    limit: int
    keep: bool | None = None
    _shapes: list[tuple[int, ...]] = field(default_factory=list)
    _rows: NDArray[np.float16] | None = None
    _whole: NDArray[np.uint8] | None = None
    _seconds: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Answer a batch of "image" (N, C, H, W) and, where samples repeat, ``SLOT``: one (N, ...) map each."""
        if not self.slots or self.keep is False:
            return [_rounded(answer) if self.slots else answer for answer in self.ask(batch["image"])]
        slots = batch[SLOT].cpu().numpy()
        if self._rows is None:
            answers, spent = self._asked(batch["image"])
            if self._open(answers):
                self._trial(slots, answers, spent)
            return answers
        assert self._whole is not None
        held = np.array([slot < len(self._whole) and bool(self._whole[slot]) for slot in slots])
        if held.all():
            return self._read(slots, batch["image"].device)
        answers, spent = self._asked(batch["image"][torch.from_numpy(~held)])
        if self.keep is None:
            self._trial(slots[~held], answers, spent / (~held).mean())
        elif self.keep:
            self._write(slots[~held], answers)
        if not held.any():
            return answers
        return self._joined(held, slots, answers)

    @property
    def kept(self) -> int:
        """How many answers lie on disk."""
        return int(self._whole.sum()) if self._whole is not None and self.keep is not False else 0

    def _asked(self, images: Tensor) -> tuple[list[Tensor], float]:
        start = time.perf_counter()
        answers = [_rounded(answer) for answer in self.ask(images)]
        return answers, time.perf_counter() - start

    def _joined(self, held: NDArray[np.bool_], slots: NDArray[np.int64], fresh: Sequence[Tensor]) -> list[Tensor]:
        known = self._read(slots[held], fresh[0].device)
        joined = []
        for old, new in zip(known, fresh, strict=True):
            whole = new.new_empty((len(slots), *new.shape[1:]))
            whole[torch.from_numpy(held)], whole[torch.from_numpy(~held)] = old, new
            joined.append(whole)
        return joined

    def _trial(self, slots: NDArray[np.int64], answers: Sequence[Tensor], spent: float) -> None:
        """Keep these, read them back, and decide once enough batches were timed."""
        start = time.perf_counter()
        self._write(slots, answers)
        self._read(slots[slots < self._capacity], answers[0].device)
        self._seconds.append((spent, time.perf_counter() - start))
        if self.keep is None and len(self._seconds) >= _TRIALS:
            asking, keeping = (float(np.median(part)) for part in zip(*self._seconds, strict=True))
            self.keep = self.visits > 1 and keeping < _WORTH * asking
            self._tell(asking, keeping)
            if not self.keep:
                self._rows = None
                shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, asking: float, keeping: float) -> None:
        size = self._capacity * self._row * 2
        log.info(
            "teacher: %.3f s a batch, keeping and reading its answers %.3f s, each is used %.1f times: %s",
            asking, keeping, self.visits,
            f"kept, {self._capacity} of {self.slots} answers, {size / 1e6:.0f} MB in {self._folder}"
            if self.keep else "asked every time",
        )  # fmt: skip

    @property
    def _capacity(self) -> int:
        return min(self.slots, self.limit // max(1, 2 * self._row))

    @property
    def _row(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes)

    @property
    def _folder(self) -> Path:
        return self.root / digest([dict(self.key), self._shapes, self._capacity])

    def _open(self, answers: Sequence[Tensor]) -> bool:
        """Map the files for answers of these shapes; returns whether there is room for any."""
        self._shapes = [tuple(answer.shape[1:]) for answer in answers]
        folder, rows = self._folder, self._capacity
        self._make_room(2 * rows * self._row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key.json").write_text(json.dumps({"key": dict(self.key), "shapes": self._shapes}), encoding="utf-8")
        if not rows:
            self.keep = False
            return False
        self._rows = _mapped(folder / "answers.f16", np.float16, (rows, self._row))
        self._whole = _mapped(folder / "whole.u8", np.uint8, (rows,))
        return True

    def _make_room(self, wanted: int) -> None:
        """Remove the oldest other answers until ``wanted`` bytes fit."""
        others = [folder for folder in self.root.glob("*") if folder.is_dir() and folder != self._folder]
        sizes = {folder: sum(f.stat().st_size for f in folder.iterdir()) for folder in others}
        for folder in sorted(others, key=lambda f: f.stat().st_mtime):
            if wanted + sum(sizes.values()) <= self.limit:
                return
            shutil.rmtree(folder, ignore_errors=True)
            sizes.pop(folder)

    def _write(self, slots: NDArray[np.int64], answers: Sequence[Tensor]) -> None:
        if self._rows is None or self._whole is None:
            return
        flat = torch.cat([answer.flatten(1) for answer in answers], 1).to("cpu", torch.float16).numpy()
        for slot, row in zip(slots, flat, strict=True):
            if slot < len(self._rows):
                self._rows[slot] = row
                self._whole[slot] = 1  # after its values

    def _read(self, slots: NDArray[np.int64], device: torch.device) -> list[Tensor]:
        assert self._rows is not None
        flat = torch.from_numpy(self._rows[slots]).to(device).float()
        parts = torch.split(flat, [math.prod(shape) for shape in self._shapes], 1)
        return [part.reshape(len(slots), *shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _rounded(answer: Tensor) -> Tensor:
    return answer.detach().float().clamp(-_LARGEST, _LARGEST).half().float()


def _mapped(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a file of zeros into memory, made where it is absent; pages cost disk only once written."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    with path.open("ab") as stream:
        if stream.tell() != size:
            stream.truncate(size)
    return np.memmap(path, kind, "r+", shape=shape)
