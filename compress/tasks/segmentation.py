"""Semantic segmentation: photo in, the class of every pixel out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from compress.core.errors import DataError, UsageError
from compress.core.registry import register
from compress.core.types import ImageSpec
from compress.kit.data.classes import (
    VOID,
    Classed,
    Counts,
    check_labels,
    class_accuracy,
    class_dice,
    class_iou,
    confusion,
    mean_of_known,
    palette,
    pixel_accuracy,
)
from compress.kit.data.sets import Concat, Dataset
from compress.kit.images import resize_plane
from compress.kit.lesson import Batch, Lesson, Losses, Outputs
from compress.kit.measure import losses
from compress.kit.measure.classlosses import LossName, Weighting, class_loss, class_weights
from compress.kit.measure.metrics import Metric
from compress.tasks.base import Baseline, Score, Task

CROSS_ENTROPY = class_loss(("ce",))
SURE = 1e-7  # least probability a loss is taken of: a pixel costs at most -ln(1e-7) = 16.1


class Segmentation(Task):
    """Class maps. Networks of this task take an option ``classes``, which is the data set's own number.

    A prediction is one probability map a class; pixels labelled 255 are neither learned from nor scored.
    """

    name = "segmentation"
    size = 256
    input = ImageSpec(name="image", channels=3, color="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    output = ImageSpec(name="classes", channels=21, color="classes", low=0.0, high=1.0)
    nearest = True
    metrics = (
        Metric("loss", "1", "lower", "cross-entropy of the labelled pixels, mean over images, in nats"),
        Metric("mae", "1", "lower", "probability given to wrong classes, mean over labelled pixels"),
        Metric("miou", "1", "higher", "intersection over union over the whole set, mean over classes"),
        Metric("pixel_accuracy", "1", "higher", "share of labelled pixels whose class is right"),
        Metric("dice", "1", "higher", "Dice coefficient over the whole set, mean over classes"),
        Metric("dead_masks", "count", "lower", "images of one class all over where the true one has several"),
    )

    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open folders (Pascal VOC, Cityscapes, CamVid, images/ + labels/), and scenes for "builtin", as one set.

        Raises:
            DataError: If a folder is absent, empty or of no known layout, or folders have other classes.
        """
        if not data:
            raise DataError("no data folder was named", hint="name one with --data DIR")
        parts = [_open(entry, split, seed) for entry in data]
        labels = parts[0].labels
        for entry, part in zip(data, parts, strict=True):
            if part.labels != labels:
                raise DataError(
                    f"'{data[0]}' has {len(labels)} classes ({', '.join(labels[:3])}, ...), '{entry}' has "
                    f"{len(part.labels)} ({', '.join(part.labels[:3])}, ...), wanted the same in all",
                    hint="give folders of one data set",
                )
        return parts[0] if len(parts) == 1 else Classed(Concat(tuple(part.whole for part in parts)), labels)

    def network_options(self, data: Dataset) -> dict[str, Any]:
        """As many classes as the data set has."""
        assert isinstance(data, Classed), type(data).__name__
        return {"classes": len(data.labels)}

    def output_for(self, network_options: Mapping[str, Any]) -> ImageSpec:
        """One map for each of ``classes``."""
        return replace(self.output, channels=network_options.get("classes", self.output.channels))

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Cross-entropy, void pixels left out: mean over the outputs, each brought to the target's size.

        outputs: logits, each (N, C, h, w); batch["target"]: class numbers (N, 1, H, W), int64.
        """
        return CROSS_ENTROPY(outputs, batch)

    def teach(
        self,
        data: Dataset,
        *,
        losses: tuple[LossName, ...] = ("ce",),
        class_weights: Weighting = "none",
    ) -> Lesson:
        """Teach with a sum of losses. What evaluation calls the loss stays the cross-entropy.

        Args:
            data: The training split.
            losses: What is summed: cross-entropy, Dice, focal loss, binary cross-entropy of each class; repeatable.
            class_weights: median: pixels of rare classes count for more in ce and focal, by the training split.

        Raises:
            UsageError: If no loss is named, or an unknown one.
        """
        return _lesson(data, losses, class_weights)

    def baseline(self, train: Dataset) -> Baseline:
        """Give every pixel the training split's class frequencies: the constant of least cross-entropy there."""
        assert isinstance(train, Classed), type(train).__name__
        shares = [pixels / pixels.sum() for pixels in train.class_pixels() if pixels.any()]
        constant = np.mean(shares, axis=0, dtype=np.float64) if shares else np.full(len(train.labels), 1.0)
        maps = (constant / constant.sum()).astype(np.float32)[:, None, None]
        return Baseline("class frequencies (majority class)", lambda _: maps)

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """Tempered KL of the softmax at every pixel (Hinton et al. 2015, section 2), void ones too: sum over C.

        The teacher has an opinion there. student, teacher: logits (N, C, H, W).

        Raises:
            UsageError: If teacher and student tell different numbers of classes apart.
        """
        if student.shape[1] != teacher.shape[1]:
            raise UsageError(
                f"the teacher knows {teacher.shape[1]} classes, the data set has {student.shape[1]}",
                hint="give --data of the data set the teacher was trained on",
            )
        return losses.class_kl_map(student, teacher, temperature)

    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Cross-entropy of one level with the labels, void pixels left out, as in ``loss``."""
        return CROSS_ENTROPY([output], batch)["loss"]

    def truth(self, batch: Batch) -> torch.Tensor:  # noqa: ARG002
        """Refuse: class numbers with void pixels are no picture.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "class labels are no picture to compare with: some pixels have none",
            hint="learn 'hard' of the labels, and this term of = \"teacher\"",
        )

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Softmax over classes: logits (N, C, H, W) to probabilities that sum to 1."""
        return torch.softmax(output, dim=1)

    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """Logarithm: probabilities (N, C, H, W) that sum to 1 to logits, -16.1 at least."""
        return torch.log(losses.full(picture).clamp(SURE, 1.0))

    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Measure one image at its photo's size. prediction: (C, h, w) as shipped; target: (H, W), 255 for none.

        "mae" is sum over classes of |p - onehot| / 2 = 1 - p(true class): with two classes, the mask's MAE.
        Values that are not numbers count as 0, and the image as dead. All void: loss and mae are 0.

        Raises:
            DataError: If the target has a class the prediction does not.
        """
        classes = len(prediction)
        check_labels(target, classes, "the class map")
        shares = _shares(prediction, target.shape)
        known = target != VOID
        truth = np.where(known, target, 0).astype(np.int64)[None]
        right = np.take_along_axis(shares, truth, axis=0)[0][known].astype(np.float64)
        ids = shares.argmax(axis=0)
        flat = not np.isfinite(prediction).all() or ids.min() == ids.max()
        return {
            "loss": float(-np.log(np.clip(right, SURE, 1.0)).mean()) if right.size else 0.0,
            "wrong": float((1.0 - right).sum()),
            "confusion": confusion(ids, target, classes).ravel(),
            "dead": float(flat and np.unique(target[known]).size > 1),
        }

    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Mean over images of the loss; the rest from pixels of all images together; dead images counted."""
        assert scores, "no scores to sum up"
        counts = _sum_of(scores)
        return {
            "loss": sum(float(score["loss"]) for score in scores) / len(scores),
            "mae": sum(float(score["wrong"]) for score in scores) / max(float(counts.sum()), 1.0),
            "miou": mean_of_known(class_iou(counts)),
            "pixel_accuracy": pixel_accuracy(counts),
            "dice": mean_of_known(class_dice(counts)),
            "dead_masks": sum(float(score["dead"]) for score in scores),
            "images": float(len(scores)),
        }

    def details(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Tell the classes apart: over the pixels of all images, by class number, None where nothing says it.

        "confusion": pixels by true (row) and predicted (column) class; "iou", "dice"; "accuracy": share of the pixels
        of a class that were given to it.
        """
        counts = _sum_of(scores)
        return {
            "classes": list(range(len(counts))),
            "iou": _plain(class_iou(counts)),
            "dice": _plain(class_dice(counts)),
            "accuracy": _plain(class_accuracy(counts)),
            "confusion": counts.astype(np.int64).tolist(),
        }

    def as_prediction(self, target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One-hot (C, H, W) of a class map (H, W), all zero where it is void."""
        highest = int(np.max(target, initial=0, where=target != VOID))
        numbers = np.arange(max(self.output.channels, highest + 1), dtype=np.uint8)
        maps: NDArray[np.float32] = (numbers[:, None, None] == target).astype(np.float32)
        return maps

    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """Draw "mask", RGB in Pascal VOC's colours, and "overlay", half photo, half mask, at the photo's size.

        photo: (H, W, 3); prediction: (C, h, w) in 0..1; pixels where all of it is 0 get the colour of void.
        """
        ids = np.full(photo.shape[:2], VOID, np.uint8)
        best = np.zeros(photo.shape[:2], np.float32)
        for number, plane in enumerate(_planes(prediction, photo.shape)):
            ids[plane > best] = number
            best = np.maximum(best, plane)
        mask = palette()[ids]
        overlay = ((mask.astype(np.uint16) + photo + 1) // 2).astype(np.uint8)
        return {"mask": PIL.Image.fromarray(mask), "overlay": PIL.Image.fromarray(overlay)}


def _open(entry: str, split: str, seed: int) -> Classed:
    if entry == "builtin":
        from compress.kit.data.classscenes import LABELS, ClassScenes

        return Classed(ClassScenes(split, seed), LABELS)
    from compress.kit.data.segfolders import open_classes

    return open_classes(entry, split, seed=seed)


def _lesson(data: Dataset, names: tuple[LossName, ...], weighting: Weighting) -> Lesson:
    assert isinstance(data, Classed), type(data).__name__
    loss = class_loss(names)  # a wrong name shows before every class map is read
    weights = class_weights(data, weighting)
    settings = {"losses": list(dict.fromkeys(names)), "class_weights": list(weights or ())}
    return Lesson(loss if weights is None else class_loss(names, weights), settings=settings)


def _sum_of(scores: Sequence[Score]) -> Counts:
    """Pixels of all images by true (row) and predicted (column) class, (C, C)."""
    counts = np.sum([np.asarray(score["confusion"]) for score in scores], axis=0)
    side = round(counts.size**0.5)
    return np.asarray(counts.reshape(side, side), np.float64)


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _shares(prediction: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Probabilities (C, height, width) that sum to 1: resizing and int8 leave sums a step off; all zero is uniform."""
    maps = np.stack(list(_planes(prediction, size)))
    total = maps.sum(axis=0, keepdims=True)
    return np.divide(maps, total, out=np.full_like(maps, 1 / len(maps)), where=total > 0)


def _planes(prediction: NDArray[np.float32], size: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Resize (C, h, w) to (height, width) of ``size`` map by map: all at once, those of a large photo fill the memory.

    Bilinear, antialiased where they shrink; NaN becomes 0.
    """
    assert prediction.ndim == 3, f"class maps {prediction.shape}, wanted (C, h, w)"
    yield from (resize_plane(plane, size) for plane in prediction)


register(__name__, Segmentation())
