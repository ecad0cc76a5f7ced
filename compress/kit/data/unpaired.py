"""Two folders of photos that show different things: before in A/, after in B/, nobody's partner in either."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from compress.core.errors import DataError, NoTruthError, UsageError
from compress.kit.data.sets import Concat, Dataset, Photos, Sample, Subset, digest, open_photos
from compress.kit.images import Array, resize

# Zhu et al. 2017's data sets have trainA and trainB; case matters, as photos may well be sorted into a/, b/, c/
FOLDERS = (("trainA", "trainB"), ("train/A", "train/B"), ("A", "B"))
REST = (("testA", "testB"), ("test/A", "test/B"), ("val/A", "val/B"), ("valA", "valB"))


@dataclass(frozen=True)
class Unpaired(Dataset):
    """Photos of A as images and photos of B as "targets" that have nothing to do with them; as many as the larger has.

    Sample i is photo i of A, beginning anew where A ends, beside a photo of B: each of these once before any twice,
    shuffled by seed.

    Args:
        before: A.
        after: B.
        seed: Another seed pairs them otherwise.
    """

    before: Photos
    after: Photos
    seed: int = 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the photos of A, with a number where one comes again."""
        count = len(self.before)
        rounds = -(-max(count, len(self.after)) // count)
        names = [f"{name}-{k}" if k else name for k in range(rounds) for name in self.before.names]
        return tuple(names[: max(count, len(self.after))])

    @property
    def fingerprint(self) -> str:
        """Of both sides and the seed."""
        return digest(("unpaired", self.before.fingerprint, self.after.fingerprint, str(self.seed)))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3), and as "target" of that shape the middle of a photo of B, its aspect kept."""
        index = range(len(self))[index]
        image = self.before.original(index % len(self.before))["image"]
        other = self.after.original(int(self._order[index]))["image"]
        return {"image": image, "target": _covering(other, image.shape[0], image.shape[1])}

    @cached_property
    def _order(self) -> Array:
        random = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, 5], np.uint64)))
        rounds = -(-len(self) // len(self.after))
        order: Array = np.concatenate([random.permutation(len(self.after)) for _ in range(rounds)])
        return order


def is_unpaired(folder: str | Path) -> bool:
    """Whether a folder holds photos before and after that are no pairs, or one side of them."""
    return any((Path(folder) / side).is_dir() for pair in (*FOLDERS, *REST) for side in pair)


def open_unpaired(folder: str | Path, split: str, *, seed: int = 0) -> Unpaired:
    """Open ``A/`` + ``B/``, ``train/A`` + ``train/B`` or ``trainA/`` + ``trainB/`` for training.

    Raises:
        NoTruthError: For any other split: no picture has a truth that a prediction could be scored by.
        DataError: If one of the two is absent or has no photo.
    """
    root = Path(folder)
    if split not in ("train", "all"):
        raise NoTruthError(
            f"'{root}' has no pairs, so its {split} split has nothing to score by",
            hint="evaluate on a folder with input/ and target/",
        )
    for pair in FOLDERS:
        here = [root / side for side in pair]
        if any(side.is_dir() for side in here):
            missing = next((side for side in here if not side.is_dir()), None)
            if missing is not None:
                raise DataError(
                    f"'{root}' has {pair[here[0] == missing]}/ but no {missing.relative_to(root)}/",
                    hint="photos before go into A/, photos after into B/",
                )
            before, after = (open_photos([side]) for side in here)
            return Unpaired(before, after, seed)
    raise DataError(f"nothing in the train split of '{root}'", hint="add trainA/ and trainB/, or A/ and B/")


def is_paired(data: Dataset) -> bool:
    """Whether every target in a data set belongs to its image."""
    parts = data.parts if isinstance(data, Concat) else (data.whole,) if isinstance(data, Subset) else ()
    return not isinstance(data, Unpaired) and all(is_paired(part) for part in parts)


def require_pairs(data: Dataset) -> None:
    """Refuse to learn pixel by pixel from pictures that are no pairs.

    Raises:
        UsageError: If any part of the data set is unpaired.
    """
    if not is_paired(data):
        raise UsageError(
            "photos of A/ and B/ are no pairs, and this network learns from pairs",
            hint="give a folder with input/ and target/, or train cyclegan",
        )


def _covering(photo: Array, height: int, width: int) -> Array:
    """Resize a photo so that it just covers (height, width) and cut out its middle."""
    scale = max(height / photo.shape[0], width / photo.shape[1])
    tall, wide = (max(round(side * scale), least) for side, least in zip(photo.shape[:2], (height, width), strict=True))
    top, left = (tall - height) // 2, (wide - width) // 2
    return np.ascontiguousarray(resize(photo, (tall, wide))[top : top + height, left : left + width])
