"""The contract of a target: which artifacts it runs, what it needs made beforehand, and a runner for one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    from compress.formats.base import Runner


class Target(ABC):
    """One runtime on one kind of device. Stateless; importing its file imports no framework.

    The first line of its file's docstring is its help. ``available``, ``can_run`` and ``prepare`` are asked in the
    parent, ``start`` and ``open`` in the fresh process that measures.
    """

    name: ClassVar[str]

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
