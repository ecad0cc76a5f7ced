"""Colour: lightness in, the two colour planes a* and b* of the same photo out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from compress.core.errors import DataError, UsageError
from compress.core.registry import register
from compress.core.types import ImageSpec
from compress.kit import lab
from compress.kit.data.batches import Augmentation
from compress.kit.data.sets import ALL, Concat, Dataset, Sample, digest, open_photos
from compress.kit.data.shards import is_packed, open_shards
from compress.kit.images import resize_plane
from compress.kit.lesson import Batch, Losses, Outputs
from compress.kit.measure import fidelity, losses, metrics
from compress.kit.measure.metrics import Metric
from compress.kit.nets.blocks import resize_like
from compress.tasks.base import EDGE, Baseline, Score, Task

LOOKED_AT = 200  # photos of a folder that are searched for colour before it is called grey
TINGE = 12  # levels of 255 between a pixel's largest and smallest value that are more than a scanner's tint
TINGED = 0.001  # share of such pixels that makes a photo a colour photo


class Color(Task):
    """Colours for grey photos. A prediction is a* and b* divided by 128; the photo gives its own lightness L*."""

    name = "color"
    size = 224
    input = ImageSpec(name="lightness", channels=1, color="lightness", mean=(0.5,), std=(0.5,), fit="pad")
    output = ImageSpec(name="ab", channels=2, color="ab", low=-1.0, high=1.0)
    augmentation = Augmentation(relight=False, keep=1.125)
    metrics = (
        Metric("loss", "1", "lower", "mean squared error of a* and b* over 128 (S7's 2.2)"),
        Metric("mae", "1", "lower", "mean absolute error of a* and b* over 128"),
        Metric("psnr", "dB", "higher", "peak signal to noise ratio of the RGB picture, mean over images"),
        Metric("deltae", "1", "lower", "colour difference CIEDE2000, mean over pixels"),
        Metric("colorfulness", "1", "none", "Hasler & Süsstrunk's M3 of the pictures: 0 is grey, 45 quite colourful"),
        Metric("colorfulness_ratio", "1", "none", "colorfulness over that of the true photos; 0 where those are grey"),
        Metric("dead_masks", "count", "lower", "images that came out in one flat tint though the target has colours"),
    )

    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open folders of photos, packed folders and "builtin" as one data set; each photo is its own target.

        Raises:
            DataError: If a folder is absent, empty or grey all over, nothing is left in that split, or the
                folders' embeddings were made by different networks, or some have none.
        """
        if not data:
            raise DataError("no data folder was named", hint="name one with --data DIR")
        parts = [_open(entry, split, seed) for entry in data]
        made = [getattr(part, "embedding", None) for part in parts]
        for entry, by in zip(data, made, strict=True):
            if by != made[0]:
                raise DataError(
                    f"'{data[0]}' has {_told(made[0])}, '{entry}' has {_told(by)}, wanted the same in all",
                    hint="pack them together",
                )
        return Coloured(parts[0] if len(parts) == 1 else Concat(tuple(parts)), made[0])

    def baseline(self, train: Dataset) -> Baseline | None:  # noqa: ARG002
        """Grey, which needs nothing of the training split: what squared error drives a network to that is unsure."""
        return Baseline("grey (ab = 0)", lambda photo: np.zeros((2, *photo.shape[:2]), np.float32))

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Squared error of ab over 128 (S7's 2.2): mean over N, 2, H, W.

        outputs: raw ab (N, 2, h, w), brought to the target's size where smaller, then features, which have no labels;
        batch["target"]: the photos, sRGB 0..1 (N, 3, H, W).
        """
        return {"loss": _squared_error(self.activate(outputs[0]), batch)}

    def levels(self, outputs: Outputs) -> Outputs:
        """The ab alone: what a network gives beside it are features."""
        return outputs[:1]

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:  # noqa: ARG002
        """Refuse: ab is no distribution that could be softened.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"T = {temperature:g} has no meaning here: the squared error of ab has no temperature",
            hint='take the term "picture" instead of "kl", or "attention" on = "features"',
        )

    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Squared error of ab, as in ``loss``."""
        return _squared_error(self.activate(output), batch)

    def truth(self, batch: Batch) -> torch.Tensor:
        """a* and b* over 128 of the photos, (N, 2, H, W)."""
        return _true_ab(batch)

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """S7's tanh: raw (N, 2, H, W) to a* and b* over 128, -1..1."""
        return torch.tanh(losses.full(output))

    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """atanh: ab (N, 2, H, W) in -1..1 to what comes before the tanh, +-7.3 at most."""
        return torch.atanh(losses.full(picture).clamp(EDGE - 1.0, 1.0 - EDGE))

    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Measure one image at its photo's size. prediction: (2, h, w) in -1..1; target: sRGB (H, W, 3) 0..255.

        "psnr", "deltae" and "colorfulness" are of the RGB picture of the photo's own L* and the predicted ab; "true"
        is the photo's colorfulness. Values that are not numbers count as grey, and the picture as dead.
        """
        truth = lab.rgb_to_lab_array(target)
        right = truth[..., 1:] / lab.AB
        found = _resized(prediction, target.shape[:2])
        error = (found - right).astype(np.float64)
        photo, picture = target / 255.0, _painted(truth[..., 0], found).astype(np.float64)
        return {
            "loss": float(np.square(error).mean()),
            "mae": float(np.abs(error).mean()),
            "psnr": fidelity.psnr(picture, photo),
            "deltae": fidelity.delta_e(picture, photo),
            "colorfulness": lab.colorfulness(picture),
            "true": lab.colorfulness(photo),
            "dead": float(_is_flat(prediction) and not _is_flat(np.moveaxis(right, -1, 0))),
        }

    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Mean of every metric over images, but the ratio, which is of two means; dead and all images counted."""
        assert scores, "no scores to sum up"
        keys = ("loss", "mae", "psnr", "deltae", "colorfulness")
        means = {key: sum(float(score[key]) for score in scores) / len(scores) for key in keys}
        true = sum(float(score["true"]) for score in scores) / len(scores)
        return {
            **means,
            "colorfulness_ratio": means["colorfulness"] / true if true > 0 else 0.0,
            "dead_masks": sum(float(score["dead"]) for score in scores),
            "images": float(len(scores)),
        }

    def as_prediction(self, target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn a photo, sRGB (H, W, 3), into the prediction of a network that knows its colours, (2, H, W)."""
        return np.ascontiguousarray(np.moveaxis(lab.rgb_to_lab_array(target)[..., 1:] / np.float32(lab.AB), -1, 0))

    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """Draw "color", RGB at the photo's size: its own L*, and the predicted ab brought to its size.

        photo: (H, W, 3), grey or not; prediction: (2, h, w) in -1..1.
        """
        picture = _painted(lab.lightness_array(photo) / np.float32(2.55), _resized(prediction, photo.shape[:2]))
        return {"color": PIL.Image.fromarray(np.rint(picture * 255.0).astype(np.uint8))}


@dataclass(frozen=True)
class Coloured(Dataset):
    """Photos that are their own targets.

    Args:
        photos: The photos.
        embedding: What made the embeddings that come with them, None where there are none.
    """

    photos: Dataset
    embedding: Mapping[str, Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the photos, in order."""
        return self.photos.names

    @property
    def fingerprint(self) -> str:
        """Of the photos."""
        return digest(["coloured", self.photos.fingerprint])

    def original(self, index: int) -> Sample:
        """Read the photo as "image" and as "target", (H, W, 3)."""
        photo = self.photos.original(index)["image"]
        return {"image": photo, "target": photo}

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Ask the photos: those of a packed folder may bring their "embedding"."""
        return self.photos.vectors(index)


def _open(entry: str, split: str, seed: int) -> Dataset:
    if entry == "builtin":
        from compress.kit.data.degrade import Crops

        return Crops(split, seed)
    found = _find(entry, split, seed)
    if not any(map(_has_colour, _some(_find(entry, ALL, seed)))):
        raise DataError(
            f"no colours in '{entry}': found grey photos alone, wanted photos to learn colours from",
            hint="give colour photos; `compress apply` colours grey ones",
        )
    return found


def _find(entry: str, split: str, seed: int) -> Dataset:
    if is_packed(entry):
        return open_shards(entry, split, seed=seed)
    return open_photos([entry], split, seed=seed)


def _some(photos: Dataset) -> Iterator[NDArray[np.uint8]]:
    """Photos from all over the set, as many as decide whether it is grey; what can't be read is met in its turn."""
    step = max(len(photos) // LOOKED_AT, 1)
    for index in islice(range(0, len(photos), step), LOOKED_AT):
        try:
            yield photos.original(index)["image"]
        except DataError:
            continue


def _has_colour(photo: NDArray[np.uint8]) -> bool:
    spread = photo.max(axis=-1) - photo.min(axis=-1)
    return float(np.mean(spread >= TINGE)) >= TINGED


def _told(made: Mapping[str, Any] | None) -> str:
    if made is None:
        return "no embeddings"
    return f"embeddings of {made.get('length')} numbers by weights {str(made.get('sha256'))[:8]}"


def _squared_error(colours: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean square of ab (N, 2, h, w), activated, against that of batch["target"]; only smaller ones are resized."""
    right = _true_ab(batch)
    return F.mse_loss(colours if colours.shape == right.shape else resize_like(colours, right), right)


def _true_ab(batch: Batch) -> torch.Tensor:
    """Colours of the photos batch["target"], (N, 2, H, W): a* and b* over 128."""
    return (lab.rgb_to_lab(batch["target"])[:, 1:] / lab.AB).detach()


def _is_flat(ab: NDArray[np.float32]) -> bool:
    """Whether ab (2, H, W) over 128 is one tint: both planes vary by less than 2.6 of CIE's units."""
    return all(metrics.is_flat(plane) for plane in ab)


def _painted(lightness: NDArray[np.float32], ab: NDArray[np.float32]) -> NDArray[np.float32]:
    """SRGB 0..1 (H, W, 3) of L* (H, W) and ab over 128 (H, W, 2)."""
    return lab.lab_to_rgb_array(np.concatenate((lightness[..., None], ab * np.float32(lab.AB)), axis=-1))


def _resized(prediction: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize ab (2, h, w) to (height, width, 2), bilinear, antialiased where it shrinks; NaN becomes 0."""
    assert prediction.ndim == 3 and prediction.shape[0] == 2, f"ab {prediction.shape}, wanted (2, h, w)"
    return np.stack([resize_plane(plane, size, -1.0, 1.0) for plane in prediction], axis=-1)


register(__name__, Color())
