"""Calibration: what values every tensor of an ONNX graph takes over real images, one image in memory at a time."""

from __future__ import annotations

import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from compress.core.errors import ArtifactError, DataError, UsageError
from compress.kit.quant.observe import fix_sides, observe
from compress.kit.quant.seen import Gathering, MeanGathering, Seen
from compress.kit.ship.runtime import PROVIDERS, session_options

Feed = Mapping[str, NDArray[Any]]  # the graph's inputs by name

_KEEP_FIRST = 2**23  # bytes of the first image that are worth storing


@dataclass(frozen=True)
class Calibration:
    """What calibration saw.

    ``tensors``: every float tensor that is fed or computed, by name. ``means``: mean per channel (C,), over images
    and places, of the input of each convolution, transposed ones too, by the tensor's name. ``first``: the first
    image's feed, kept to look at a result with; empty where it was too big to store.
    """

    tensors: dict[str, Seen]
    means: dict[str, NDArray[np.float64]]
    images: int
    first: dict[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write everything to one npz file, in which nothing is pickled."""
        seen = list(self.tensors.values())
        first = self.first if sum(value.nbytes for value in self.first.values()) <= _KEEP_FIRST else {}
        with path.open("wb") as stream:
            np.savez_compressed(
                stream,
                images=np.array(self.images),
                names=np.array(list(self.tensors), np.str_),
                ranges=np.array([(each.low, each.high) for each in seen], np.float64).reshape(-1, 2),
                whole=np.array(
                    [(each.images, each.zeros, each.exponent, each.start, len(each.counts)) for each in seen], np.int64
                ).reshape(-1, 5),
                counts=_joined([each.counts for each in seen], np.int64),
                mean_names=np.array(list(self.means), np.str_),
                mean_lengths=np.array([len(mean) for mean in self.means.values()], np.int64),
                means=_joined(list(self.means.values()), np.float64),
                first_names=np.array(list(first), np.str_),
                **{f"first_{index}": value for index, value in enumerate(first.values())},
            )

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: If the file is absent, cut short or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                return cls(_read_tensors(kept), _read_means(kept), int(kept["images"]), _read_first(kept))
        # what numpy and zipfile meet in damaged bytes
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            said = " ".join(str(error).split())[:160] or type(error).__name__
            raise ArtifactError(f"'{path.name}' holds no calibration: {said}", hint="remove it") from error


def calibrate(
    path: Path,
    batches: Iterable[Feed],
    *,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> Calibration:
    """Run a float32 graph with inferred shapes over images and gather what values every tensor takes.

    A batch is run image by image, unless the graph has a fixed batch size above one, and dropped once seen: neither
    the order of the images nor how they are batched changes a bit of ``tensors`` and ``means``. Every way to choose
    a range (``clip.chosen_range``) reads them; none needs a second pass.

    Args:
        path: The graph; it is only read.
        batches: Inputs by name, (N, ...) each, one batch at a time.
        threads: Threads inside one operator; 0 leaves the choice to ONNX Runtime.
        advance: Called after each batch.

    Raises:
        DataError: If there is no image, if all of them are one flat colour, or if an input or a tensor takes a value
            that isn't finite.
        UsageError: If a batch doesn't fit the graph.
    """
    watch = _Watch(path, threads)
    for batch in batches:
        watch.see(batch)
        del batch  # before the next one is read
        if advance is not None:
            advance()
    return watch.result()


class _Watch:
    """The graph's twin, whose outputs are statistics, and what came out of it so far."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._session: Any = None
        model = onnx.load(path)
        firsts = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input]
        self._whole = any(side.dim_value > 1 for sides in firsts for side in sides)
        self._names = observe(model)
        self._tensors = [Gathering() for _ in self._names.tensors]
        self._means = [MeanGathering() for _ in self._names.inputs]
        self._colours: dict[str, _Colour] = {}
        self._first: dict[str, NDArray[Any]] = {}
        self._images = 0

    def see(self, batch: Feed) -> None:
        """Count one batch in, image by image where the graph allows it."""
        lengths = [len(value) for value in batch.values() if np.ndim(value)]
        count = max(lengths, default=1)
        if self._whole or count == 1 or lengths != [count] * len(batch):
            self._see(batch, count)
            return
        for index in range(count):
            self._see({name: value[index : index + 1] for name, value in batch.items()}, 1)

    def _see(self, feed: Feed, images: int) -> None:
        self._check_input(feed)
        names, values = self._names, iter(self._run(feed))
        low, high, sums = ([float(next(values)) for _ in of] for of in (names.measured, names.measured, names.summed))
        means = [next(values) for _ in names.inputs]
        self._check_tensors([*low, *high, *sums], means)
        self._first = self._first or {name: np.array(value) for name, value in feed.items()}
        for tensor, (least, largest), sample in zip(self._tensors, names.ranges(low, high), values, strict=True):
            tensor.see(least, largest, sample, images)
        for mean, value in zip(self._means, means, strict=True):
            mean.see(value.reshape(value.shape[:2]))
        self._images += images

    def _run(self, feed: Feed) -> list[Any]:
        shapes = {name: np.shape(value) for name, value in feed.items()}
        try:
            if shapes != self._shapes:
                self._session, self._shapes = None, shapes
                self._session = self._open()
            values: list[Any] = self._session.run(None, dict(feed))
        # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
        except Exception as error:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            said = " ".join(str(error).split())[-160:]
            what = f"a calibration batch doesn't fit the network: {found}"
            raise UsageError(what, hint=f"it says: {said}") from error
        return values

    def _open(self) -> Any:
        """Open the twin for images of one size."""
        model = onnx.load(self._path)
        fix_sides(model, self._shapes)
        observe(model)
        with tempfile.TemporaryDirectory() as folder:
            twin = Path(folder) / "observed.onnx"
            onnx.save(model, twin)
            del model
            options = session_options(self._threads, lean=True)
            # images of one size ask for the same blocks again: asking the system for them each time costs a fifth
            options.enable_cpu_mem_arena = True
            return onnxruntime.InferenceSession(str(twin), options, providers=[PROVIDERS["cpu"]])

    def _check_input(self, feed: Feed) -> None:
        for name, value in feed.items():
            if not np.isfinite(value).all():
                raise DataError(
                    f"input '{name}' of calibration image {self._images} (counted from 0) holds values that aren't "
                    "finite",
                    hint="leave that image out, or mend how it is read",
                )
            self._colours.setdefault(name, _Colour()).see(np.asarray(value))

    def _check_tensors(self, scalars: list[float], means: list[NDArray[np.float32]]) -> None:
        names = self._names
        largest = [float(np.abs(value).max(initial=0)) for value in means]
        found = zip((*names.measured, *names.measured, *names.summed, *names.inputs), [*scalars, *largest], strict=True)
        odd = {name for name, value in found if not math.isfinite(value)}
        wide = {name for name, value in zip(names.inputs, largest, strict=True) if value > MeanGathering.LARGEST}
        first = next((name for name in names.tensors if name in odd | wide), None)
        if first is not None:
            values = "values that aren't finite" if first in odd else f"values around {MeanGathering.LARGEST:.0e}"
            raise DataError(
                f"tensor '{first}' takes {values} on calibration image {self._images} (counted from 0)",
                hint="the float network itself overflows or divides by zero there; look at the nodes that lead to it",
            )

    def result(self) -> Calibration:
        """Return what was seen."""
        if not self._images:
            raise DataError("there is no image to calibrate with", hint="give --data a folder with photos")
        if all(colour.flat for colour in self._colours.values()):
            found = "; ".join(f"'{name}' is {colour} everywhere" for name, colour in self._colours.items())
            photos = f"the {self._images} calibration photos are" if self._images > 1 else "the calibration photo is"
            raise DataError(
                f"{photos} all one flat colour ({found}), which shows no layer the range of its values",
                hint="give --data a folder with photos of the kind that the network is for",
            )
        return Calibration(
            {name: tensor.seen() for name, tensor in zip(self._names.tensors, self._tensors, strict=True)},
            {name: mean.mean() for name, mean in zip(self._names.inputs, self._means, strict=True)},
            self._images,
            self._first,
        )


class _Colour:
    """Whether an input has been one flat colour all along."""

    def __init__(self) -> None:
        self.flat = True
        self._pixel: NDArray[Any] | None = None

    def see(self, value: NDArray[Any]) -> None:
        """Look at one feed, (N, C, H, W) or (N, H, W, C); of any other rank all values must be one."""
        if self._pixel is None:
            self._pixel = np.array(_pixel(value))
        self.flat = self.flat and bool((value == self._pixel).all())

    def __str__(self) -> str:
        values = [] if self._pixel is None else self._pixel.ravel()[:4].tolist()
        return ", ".join(f"{value:.4g}" for value in values)


def _pixel(value: NDArray[Any]) -> NDArray[Any]:
    if value.ndim != 4:
        return value.ravel()[:1]
    channels_last = value.shape[3] < value.shape[1]
    return value[:1, :1, :1] if channels_last else value[:1, :, :1, :1]


def _joined(arrays: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    joined: NDArray[Any] = np.concatenate([np.zeros(0, kind), *arrays])
    return joined


def _parted(joined: NDArray[Any], lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
    if lengths.min(initial=0) < 0 or lengths.sum() != len(joined):
        raise ValueError(f"{len(joined)} values where {int(lengths.sum())} were announced")
    return np.split(joined, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _read_tensors(kept: Mapping[str, NDArray[Any]]) -> dict[str, Seen]:
    whole = kept["whole"]
    parts = _parted(kept["counts"], whole[:, 4])
    return {
        str(name): Seen(float(low), float(high), int(images), int(zeros), int(exponent), int(start), counts)
        for name, (low, high), (images, zeros, exponent, start, _), counts in zip(
            kept["names"], kept["ranges"], whole, parts, strict=True
        )
    }


def _read_means(kept: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    parts = _parted(kept["means"], kept["mean_lengths"])
    return {str(name): mean for name, mean in zip(kept["mean_names"], parts, strict=True)}


def _read_first(kept: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {str(name): kept[f"first_{index}"] for index, name in enumerate(kept["first_names"])}
