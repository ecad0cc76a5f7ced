"""Training batches as a pure function of the step: resuming and several devices need no state."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray

from compress.core.errors import CompressError
from compress.core.types import ImageSpec
from compress.kit.images import Array, letterbox, luminance, resize

if TYPE_CHECKING:
    from compress.kit.data.sets import Dataset

_WORD = 2**64


@dataclass(frozen=True)
class Augmentation:
    """What training pictures go through before a network sees them, each drawn from its sample's own seed.

    Args:
        keep: Photos are kept at up to this many times the training size; above 1.125 never larger than the first is.
        closest: Side of the smallest crop, as a share of the kept picture's; 0: down to the training size itself.
        widest: Side of the largest crop, in training sizes; the whole kept picture where that is smaller.
        relight: Change brightness, contrast and saturation of the picture, not of the target.
        elastic: Bend picture and target together, for half of the samples: displacements' deviation as a share of the
            side.
        upright: Whether top and bottom mean something: False turns by any quarter and mirrors both ways.
    """

    keep: float = 1.125
    closest: float = 0.6**0.5  # 0.6 of the area
    widest: float = float("inf")
    relight: bool = True
    elastic: float = 0.0
    upright: bool = True


@dataclass(frozen=True)
class Draw:
    """One sample of a batch: which picture, the seed of its augmentation, and which of its patterns that is."""

    index: int
    seed: int
    pattern: int = 0


def stream(
    length: int, batch: int, seed: int, step: int, rank: int = 0, world: int = 1, patterns: int = 0
) -> list[Draw]:
    """Draw batch number ``step`` of the endless concatenation of one shuffle per epoch.

    Args:
        length: Number of samples in the data set, at least 1.
        batch: Size of the batch over all ranks together.
        seed: Of shuffles and draws.
        step: 0 and up.
        rank: Which contiguous slice of the batch is wanted, 0 to ``world`` - 1.
        world: Number of slices.
        patterns: Augmentations of each picture, one an epoch in turn; 0: a new one in every epoch.
    """
    assert length > 0
    assert 0 <= rank < world
    first = step * batch
    positions = range(first + batch * rank // world, first + batch * (rank + 1) // world)
    return [_draw(length, seed, position, patterns) for position in positions]


def _draw(length: int, seed: int, position: int, patterns: int) -> Draw:
    epoch, place = divmod(position, length)
    index = int(_shuffle(length, seed, epoch)[place])
    if not patterns:
        return Draw(index, _draw_seed(seed, position))
    pattern = epoch % patterns
    return Draw(index, _draw_seed(seed, pattern * length + index), pattern)


@dataclass(frozen=True)
class Batches:
    """The batches of steps ``start`` to ``stop`` - 1, in order: the same ones for any number of workers.

    Each is a dict: "image" float32 (N, C, S, S) after ``spec``, "index" int64 (N,), and for labelled sets "target":
    float32 (N, C', S, S) in 0..1, or with ``target_nearest`` int64 class numbers as stored; further what the data
    set's ``vectors`` hold, float32 (N, F), and with ``patterns`` "slot", int64 (N,): equal slots are equal samples.

    Args:
        dataset: Where pictures come from; each is decoded and resized once while ``cache_bytes`` last.
        spec: How pictures become numbers; its height and width are not used.
        size: S, pixels a side.
        batch: N over all ranks together.
        seed: Of order and augmentation.
        start: First step.
        stop: The step after the last.
        rank: Which slice of each batch this process trains on.
        world: Number of processes that share a batch.
        augment: How pictures are cropped, flipped, turned and relit (``kit.data.augment``); None: not at all.
        workers: Processes that prepare batches ahead; 0 prepares them in this one.
        target_nearest: Whether targets are class maps, whose values must not be mixed.
        cache_bytes: Memory that resized pictures may take, over all workers together.
        patterns: Augmentations of each picture, one an epoch in turn; 0: a new one in every epoch.
    """

    dataset: Dataset
    spec: ImageSpec
    size: int
    batch: int
    seed: int = 0
    start: int = 0
    stop: int = 0
    rank: int = 0
    world: int = 1
    augment: Augmentation | None = Augmentation()
    workers: int = 1
    target_nearest: bool = False
    cache_bytes: int = 2 * 10**9
    patterns: int = 0

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.augment:
            import compress.kit.data.augment  # noqa: F401  # imported once here rather than in each forked worker
        _ = self._cache  # shared by the workers because it is there before they fork
        loader: torch.utils.data.DataLoader[dict[str, torch.Tensor] | CompressError] = torch.utils.data.DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(self.start, self.stop),
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
            generator=torch.Generator(),  # its own, so that iterating leaves torch's global one alone
        )
        for made in loader:
            if isinstance(made, CompressError):
                raise made
            yield made

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """Make the batch of one step.

        Raises:
            DataError: If a picture can't be read.
        """
        draws = stream(len(self.dataset), self.batch, self.seed, step, self.rank, self.world, self.patterns)
        packed = torch.from_numpy(np.stack([self._cache.get(draw.index) for draw in draws]))
        image, target = packed[:, :3], packed[:, 3:] if packed.shape[1] > 3 else None
        if self.augment:
            from compress.kit.data.augment import augment

            seeds = [draw.seed for draw in draws]
            image, target = augment(image, target, seeds, self.size, self.augment, nearest=self.target_nearest)
        made = {"image": normalize(image, self.spec), "index": torch.tensor([draw.index for draw in draws])}
        if self.patterns:
            made["slot"] = made["index"] + len(self.dataset) * torch.tensor([draw.pattern for draw in draws])
        if target is not None:
            made["target"] = target.long() if self.target_nearest else target.float() / 255
        vectors = [self.dataset.vectors(draw.index) for draw in draws]
        return made | {key: torch.from_numpy(np.stack([v[key] for v in vectors])) for key in vectors[0]}

    @cached_property
    def _cache(self) -> _Cache:
        return _Cache(self.dataset, self._side(), self.target_nearest, self.cache_bytes, self.spec.fit == "pad")

    def _side(self) -> int:
        """Pixels a side that pictures are kept at."""
        if not self.augment:
            return self.size
        margin = round(self.size * Augmentation.keep)
        wanted = round(self.size * self.augment.keep)
        return wanted if wanted <= margin else max(margin, min(wanted, *self.dataset.original(0)["image"].shape[:2]))


def normalize(image: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Do to a batch what ``images.prepare`` does to one photo: uint8 (N, 3, H, W) to float32 (N, C, H, W)."""
    values = _planes(image, spec)
    divisor = torch.tensor(255.0) if spec.scale == "255" else values.amax((1, 2, 3), keepdim=True).clamp(min=1)
    mean, std = (torch.tensor(v[: spec.channels])[:, None, None] for v in (spec.mean, spec.std))
    return (values / divisor - mean) / std


def _planes(image: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """The planes a spec's colour asks for, float32 0..255: (N, 3, H, W) to (N, C, H, W)."""
    if spec.color == "lightness":
        from compress.kit.lab import lightness_tensor

        return lightness_tensor(image)
    if spec.channels == 1:
        wide = image.to(torch.int32)
        image = luminance(wide[:, :1], wide[:, 1:2], wide[:, 2:])
    return image.float()


class _Steps(torch.utils.data.Dataset[dict[str, torch.Tensor] | CompressError]):
    """Batches by step. A user's mistake travels as a value: torch would turn it into a traceback."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> dict[str, torch.Tensor] | CompressError:
        try:
            return self.batches.at(step)
        except CompressError as error:
            return error


class _Cache:
    """Resized pictures (3 + C', side, side) uint8, filled by whichever worker needs one first.

    Anonymous shared memory: forked workers see one copy, pages cost nothing until written, nothing is left behind.
    """

    def __init__(self, dataset: Dataset, side: int, nearest: bool, limit: int, padded: bool) -> None:
        self.dataset, self.side, self.nearest, self.padded = dataset, side, nearest, padded
        first = self._read(0)
        slots = min(len(dataset), limit // first.nbytes)
        self.pictures = _shared(slots, *first.shape)
        self.filled = _shared(slots)

    def get(self, index: int) -> Array:
        if index >= len(self.filled):
            return self._read(index)
        if not self.filled[index]:
            self.pictures[index] = self._read(index)
            self.filled[index] = 1  # after the pixels; two workers at once write the same ones
        picture: Array = self.pictures[index]
        return picture

    def _read(self, index: int) -> Array:
        sample = self.dataset.original(index)
        planes = [self._sized(sample["image"])]
        if "target" in sample:
            target = self._sized(sample["target"], nearest=self.nearest)
            planes.append(target if target.ndim == 3 else target[..., None])
        return np.ascontiguousarray(np.concatenate(planes, axis=-1).transpose(2, 0, 1))

    def _sized(self, picture: Array, *, nearest: bool = False) -> Array:
        if self.padded and picture.ndim == 3:
            return letterbox(picture, (self.side, self.side))[0]
        return resize(picture, self.side, nearest=nearest)


def _shared(*shape: int) -> Array:
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(count, 1)), np.uint8, count).reshape(shape)


@lru_cache(maxsize=8)
def _shuffle(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    key = np.array([seed % _WORD, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(length)


def _draw_seed(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed % _WORD, position]).generate_state(1, np.uint64)[0])
