"""Background removal: photo in, soft mask of its main object out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from compress.core.registry import register
from compress.core.types import ImageSpec
from compress.kit.data.sets import Concat, Dataset, open_pairs
from compress.kit.images import resize_plane
from compress.kit.lesson import Batch, Losses, Outputs
from compress.kit.measure import losses, metrics
from compress.kit.measure.metrics import Metric
from compress.tasks.base import EDGE, Baseline, Score, Task


class Saliency(Task):
    """Masks of the main object: U2-Net's deep supervision, and distillation at every level of it."""

    name = "saliency"
    size = 320
    input = ImageSpec(name="image", channels=3, color="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    output = ImageSpec(name="mask", channels=1, color="mask", low=0.0, high=1.0)
    metrics = (
        Metric("loss", "1", "lower", "binary cross-entropy of the shipped mask, in nats"),
        Metric("mae", "1", "lower", "mean absolute error of the mask as shipped, not stretched"),
        Metric("maxf", "1", "higher", "F-measure (beta squared 0.3) at the data set's best threshold"),
        Metric("smeasure", "1", "higher", "structure measure: likeness of object and region"),
        Metric("dead_masks", "count", "lower", "images whose mask is flat where the true one is not"),
    )

    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open folders of photos and masks, and the built-in set for the word "builtin", as one data set.

        Raises:
            DataError: If a folder is absent or empty, a photo has no mask (photos alone can't be scored), or
                nothing is left in that split.
        """
        folders = [entry for entry in data if entry != "builtin"]
        parts: list[Dataset] = [open_pairs(folders, split, seed=seed)] if folders or not data else []
        if "builtin" in data:
            from compress.kit.data.builtin import Builtin

            parts.append(Builtin(split, seed))
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def baseline(self, train: Dataset) -> Baseline:
        """The training masks' mean everywhere: of all constants the one with the least cross-entropy."""
        means = [float(train.original(index)["target"].mean()) / 255 for index in range(len(train))]
        everywhere = np.full((1, 1, 1), np.mean(means), np.float32)
        return Baseline("constant mask", lambda photo: everywhere)  # noqa: ARG005

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """The thesis's (3.1): sum of the BCE of all outputs; "fused" is that of the first, for logs only.

        outputs: logits, each (N, 1, h, w), fused first; batch["target"]: (N, 1, H, W) in 0..1.
        """
        target = batch["target"]
        with torch.no_grad():
            fused = losses.side_output_cross_entropy(outputs[:1], target)
        return {"loss": losses.side_output_cross_entropy(outputs, target), "fused": fused}

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """Tempered Bernoulli KL of the logits at every pixel (thesis 3.4). student, teacher: (N, 1, H, W)."""
        return losses.binary_kl_map(student, teacher, temperature)

    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """BCE of one level with the labels, as in ``loss``."""
        return losses.side_output_cross_entropy([output], batch["target"])

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Sigmoid: logits (N, 1, H, W) to a mask in 0..1."""
        return torch.sigmoid(output)

    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """Logit: a mask (N, 1, H, W) in 0..1 to logits, +-13.8 at most."""
        return torch.logit(losses.full(picture), EDGE)

    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Measure one mask at its photo's size, as shipped. prediction: (1, h, w) in 0..1; target: (H, W) 0..255.

        Values that are not numbers count as background, and the mask as dead.
        """
        truth = np.asarray(target, dtype=np.float64) / 255.0
        mask = _resized(prediction, truth.shape)
        return {
            "loss": metrics.binary_cross_entropy(mask, truth),
            "mae": metrics.mean_absolute_error(mask, truth),
            "smeasure": metrics.s_measure(mask, truth),
            "f_curve": metrics.f_curve(mask, truth),
            "dead": float(metrics.is_flat(prediction) and not metrics.is_flat(truth)),
        }

    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Mean over images of loss, MAE and S-measure; maxF of the mean curve; dead masks and images counted."""
        assert scores, "no scores to sum up"
        sums = {key: sum(float(score[key]) for score in scores) for key in ("loss", "mae", "smeasure", "dead")}
        return {
            "loss": sums["loss"] / len(scores),
            "mae": sums["mae"] / len(scores),
            "maxf": metrics.max_f([np.asarray(score["f_curve"]) for score in scores]),
            "smeasure": sums["smeasure"] / len(scores),
            "dead_masks": sums["dead"],
            "images": float(len(scores)),
        }

    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """Draw "mask", L with 255 the object, and "cutout", RGBA with the mask as its alpha, at the photo's size.

        photo: (H, W, 3); prediction: (1, h, w) in 0..1.
        """
        alpha = np.rint(_resized(prediction, photo.shape[:2]) * 255.0).astype(np.uint8)
        return {"mask": PIL.Image.fromarray(alpha), "cutout": PIL.Image.fromarray(np.dstack([photo, alpha]))}


def _resized(prediction: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize a mask (1, h, w) to (height, width), bilinear, antialiased where it shrinks; NaN becomes 0."""
    assert prediction.ndim == 3 and prediction.shape[0] == 1, f"mask {prediction.shape}, wanted (1, h, w)"
    return resize_plane(prediction[0], size)


register(__name__, Saliency())
