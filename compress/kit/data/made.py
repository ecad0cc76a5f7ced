"""What the generated data sets have in common: splits of known lengths, names, and a random stream for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from compress.core.errors import unknown
from compress.kit.data.folders import SPLITS
from compress.kit.data.sets import Dataset


@dataclass(frozen=True)
class Made(Dataset):
    """A data set made up by (split, seed), the same in every process.

    Args:
        split: "train", "val" or "test"; they share no seeds.
        seed: Another seed is another set.
    """

    lengths: ClassVar[Mapping[str, int]]  # pictures of each split

    split: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in self.lengths:
            raise unknown("split", self.split, list(self.lengths))

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.lengths[self.split]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``split-00000`` and so on."""
        return tuple(f"{self.split}-{index:05d}" for index in range(self.count))

    def random(self, index: int) -> np.random.Generator:
        """Return the random stream of one sample; no two splits, seeds or indices share one."""
        stream = SPLITS.index(self.split) * 2**32 + range(len(self))[index]
        return np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, stream], np.uint64)))
