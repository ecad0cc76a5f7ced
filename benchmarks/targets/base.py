"""The contract of a target: which artifacts it runs, what it needs made beforehand, and a runner for one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.formats.base import Runner


@dataclass(frozen=True)
class How:
    """What the user chose about the targets that leave a choice; the others don't look at it.

    ``browser`` is "chromium", "firefox" or the path of a program, "" for the first one found; ``patience`` the seconds
    one inference may take.
    """

    runtime: Literal["tfjs", "ort-web"] = "tfjs"
    browser: str = ""
    headed: bool = False
    patience: float = 300.0


@runtime_checkable
class Remote(Protocol):
    """A runner whose network runs in a program of its own (a browser), which takes the time and counts memory there."""

    start_seconds: float  # that the runtime took to be fetched and started
    load_seconds: float

    def seconds(self, image: NDArray[np.float32], count: int) -> list[float]:
        """Infer ``count`` times; seconds of each, from the input at hand there to the output at hand there."""

    def memory(self) -> dict[str, int]:
        """Bytes used so far at most, by kind of memory; "process" is that of the whole program."""

    def download(self) -> dict[str, dict[str, int]]:
        """Bytes of the "model" and of the "runtime" as they are fetched: "raw", "gzip" and "brotli" of each."""


class Target(ABC):
    """One runtime on one kind of device. Importing its file imports no framework.

    The first line of its file's docstring is its help. ``available``, ``can_run`` and ``prepare`` are asked in the
    parent, ``start`` and ``open`` in the fresh process that measures.
    """

    name: str
    web: bool = False  # whether it runs in a browser
    how: How = How()

    @property
    def label(self) -> str:
        """What its rows are called: its name, and whatever the user chose that makes it another."""
        return self.name

    def configured(self, how: How) -> Target:  # noqa: ARG002
        """Return this target as the user chose it."""
        return self

    @abstractmethod
    def available(self) -> str:
        """Return "" where this machine has what the target needs, else what is missing."""

    @abstractmethod
    def can_run(self, artifact: Artifact) -> str:
        """Return "" where the target runs artifacts of this kind, else why it doesn't."""

    @abstractmethod
    def prepare(self, store: Store, artifact: Artifact) -> Path | None:
        """Make what the target runs (an export), outside any measurement; None: the artifact itself."""

    @abstractmethod
    def start(self) -> None:
        """Import the framework, so that loading a model is timed and weighed without it."""

    @abstractmethod
    def open(self, store: Store, artifact: Artifact, path: Path | None, threads: int) -> Runner:
        """Load the model.

        Args:
            store: Where the artifact lies.
            artifact: Which.
            path: What ``prepare`` returned.
            threads: Threads one inference may use, at least 1.
        """
