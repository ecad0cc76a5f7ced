"""Cell membranes: grey photo of an electron microscope in, mask out that is white inside cells and black between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.registry import register
from compress.core.types import ImageSpec
from compress.kit.data.batches import Augmentation
from compress.kit.data.sets import Concat, Dataset
from compress.kit.images import resize_plane
from compress.kit.lesson import Batch, Losses, Outputs
from compress.kit.measure import losses, metrics
from compress.kit.measure.metrics import Metric
from compress.kit.measure.quality import squaring
from compress.kit.measure.rand import THRESHOLDS, best_rand, rand_curve
from compress.kit.nets.blocks import resize_like
from compress.tasks.base import EDGE, Baseline, Score, Task

TINT, TINT_SHARE = (255, 40, 40), 0.6  # colour of predicted membranes over the photo, and how much of it


class Membrane(Task):
    """Masks of cells. What networks give is before the tanh, and (tanh + 1) / 2 of it the mask.

    S6's table counts its errors between values of -1..1: there module is 2 times, squaring 4 times what it is here.
    """

    name = "membrane"
    size = 128
    input = ImageSpec(name="image", channels=1, color="grey", fit="native", mean=(0.5,), std=(0.5,))
    output = ImageSpec(name="mask", channels=1, color="mask", low=0.0, high=1.0)
    metrics = (
        Metric("loss", "1", "lower", "mean squared error of the mask, values 0..1 (squaring)"),
        Metric("mae", "1", "lower", "mean absolute error of the mask, values 0..1 (module)"),
        Metric("percent", "1", "higher", "share of pixels, 0..1, that are right once the mask is cut at 0.5"),
        Metric("iou", "1", "higher", "intersection over union of the cells, cut at 0.5, mean over images"),
        Metric("rand", "1", "higher", "foreground-restricted Rand score after border thinning, at the best threshold"),
        Metric("dead_masks", "count", "lower", "images whose mask is flat where the true one is not"),
    )
    # crops at the photo's own resolution: membranes are a few pixels wide
    augmentation = Augmentation(keep=4.0, closest=0.0, widest=1.25, relight=True, elastic=0.02, upright=False)

    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open folders (TIFF stacks of ISBI 2012, images/ + labels/), and made-up cells for "builtin", as one set.

        Raises:
            DataError: As ``stacks.open_membranes``, or if no folder is named.
        """
        if not data:
            raise DataError("no data folder was named", hint="name one with --data DIR")
        parts = [_open(entry, split, seed) for entry in data]
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def baseline(self, train: Dataset) -> Baseline:
        """One value all over: the mean of the training masks, which no other value beats in squared error."""
        means = [float(train.original(index)["target"].mean()) / 255 for index in range(len(train))]
        value = np.float32(sum(means) / len(means))
        return Baseline("constant mask", lambda photo: np.full((1, *photo.shape[:2]), value, np.float32))

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Squared error of the mask: mean over N, C, H, W and over the outputs, brought to the target's size.

        outputs: before the tanh, each (N, 1, h, w); batch["target"]: (N, 1, H, W) in 0..1, 1 inside cells.
        """
        target = batch["target"]
        terms = [squaring(self.activate(resize_like(losses.full(o), target)), target).mean() for o in outputs]
        return {"loss": torch.stack(terms).mean()}

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """Tempered Bernoulli KL at every pixel: (tanh(x) + 1) / 2 is sigmoid(2 x), so 2 x is a mask's logit.

        student, teacher: before the tanh, (N, 1, H, W).
        """
        return losses.binary_kl_map(2.0 * losses.full(student), 2.0 * losses.full(teacher), temperature)

    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Binary cross-entropy of one level with the labels, of the mask's logit 2 x."""
        return losses.side_output_cross_entropy([2.0 * losses.full(output)], batch["target"])

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """(tanh + 1) / 2: raw (N, 1, H, W) to a mask in 0..1; S6's generator ends on the tanh."""
        return (torch.tanh(output) + 1.0) / 2.0

    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """atanh(2 p - 1) = logit(p) / 2: a mask (N, 1, H, W) in 0..1 to what comes before the tanh, +-6.9 at most."""
        return torch.logit(losses.full(picture), EDGE) / 2.0

    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Measure one mask at its photo's size, as shipped. prediction: (1, h, w) in 0..1; target: (H, W) 0..255.

        Values that are not numbers count as membrane, and the mask as dead. The truth is cut at 128/255.
        """
        truth = np.asarray(target, dtype=np.float64) / 255.0
        mask = _resized(prediction, truth.shape)
        cut, inside = mask > 0.5, truth > 0.5
        union = int(np.count_nonzero(cut | inside))
        return {
            "loss": float(np.mean((mask - truth) ** 2)),
            "mae": metrics.mean_absolute_error(mask, truth),
            "percent": float(np.mean(cut == inside)),
            "iou": np.count_nonzero(cut & inside) / union if union else 1.0,
            "rand_curve": rand_curve(mask, inside),
            "dead": float(metrics.is_flat(prediction) and not metrics.is_flat(truth)),
        }

    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Mean over images; the Rand score of the mean curve's best threshold; dead masks and images counted."""
        assert scores, "no scores to sum up"
        means = {k: sum(float(s[k]) for s in scores) / len(scores) for k in ("loss", "mae", "percent", "iou")}
        return {
            **means,
            "rand": best_rand([np.asarray(score["rand_curve"]) for score in scores]),
            "dead_masks": sum(float(score["dead"]) for score in scores),
            "images": float(len(scores)),
        }

    def details(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Rand score at every threshold, mean over images: where the best one lies, and how much depends on it."""
        curve = np.mean([np.asarray(score["rand_curve"]) for score in scores], axis=0)
        return {"rand_by_threshold": {f"{t:g}": float(value) for t, value in zip(THRESHOLDS, curve, strict=True)}}

    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """Draw "mask", L with 255 inside cells, and "overlay", the photo with its membranes red, at the photo's size.

        photo: (H, W, 3); prediction: (1, h, w) in 0..1.
        """
        mask = _resized(prediction, photo.shape[:2])
        share = (TINT_SHARE * (1.0 - mask))[..., None]
        overlay = photo * (1.0 - share) + np.array(TINT, np.float32) * share
        return {
            "mask": PIL.Image.fromarray(np.rint(mask * 255.0).astype(np.uint8)),
            "overlay": PIL.Image.fromarray(np.rint(overlay).astype(np.uint8)),
        }


def _open(entry: str, split: str, seed: int) -> Dataset:
    if entry == "builtin":
        from compress.kit.data.cells import Cells

        return Cells(split, seed)
    from compress.kit.data.stacks import open_membranes

    return open_membranes(entry, split, seed=seed)


def _kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    mine, theirs = 2.0 * losses.full(student), 2.0 * losses.full(teacher)
    return losses.tempered_binary_kl(mine, resize_like(theirs, mine), temperature)


def _resized(prediction: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize a mask (1, h, w) to (height, width), bilinear, antialiased where it shrinks; NaN becomes 0."""
    assert prediction.ndim == 3 and prediction.shape[0] == 1, f"mask {prediction.shape}, wanted (1, h, w)"
    return resize_plane(prediction[0], size)


register(__name__, Membrane())
