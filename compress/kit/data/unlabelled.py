"""Photos without labels beside photos with them: one data set that says of each sample whether its target counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from compress.kit.data.sets import Concat, Dataset, Sample, digest

LABELLED = "labelled"  # key of a batch: float32 (N, 1), 1 where the target is one


@dataclass(frozen=True)
class Marked(Dataset):
    """A data set whose samples say that they are labelled, or photos that get an empty target and say they are not.

    Args:
        whole: The samples.
        like: A sample of the labelled set, whose kind of target photos get; None: ``whole`` is labelled.
    """

    whole: Dataset
    like: Dataset | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the samples."""
        return self.whole.names

    @property
    def fingerprint(self) -> str:
        """Of the samples, and whether their targets count."""
        return digest((self.whole.fingerprint, "labelled" if self.like is None else "unlabelled"))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3) and "target", zeros where there is none."""
        sample = self.whole.original(index)
        if self.like is None:
            return sample
        height, width = sample["image"].shape[:2]
        return {"image": sample["image"], "target": np.zeros((height, width, *self._planes), np.uint8)}

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """What is known of the sample, and whether it is labelled."""
        known = self.whole.vectors(index) if self.like is None else {}
        return {**known, LABELLED: np.array([self.like is None], np.float32)}

    @cached_property
    def _planes(self) -> tuple[int, ...]:
        assert self.like is not None
        planes: tuple[int, ...] = self.like.original(0)["target"].shape[2:]
        return planes


def beside(labelled: Dataset, photos: Dataset) -> Dataset:
    """Join labelled samples and photos without labels; batches of it hold ``LABELLED``."""
    return Concat((Marked(labelled), Marked(photos, labelled)))
