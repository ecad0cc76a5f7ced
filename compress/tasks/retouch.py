"""Retouch: photo in, the same photo as a retoucher would hand it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from compress.core.errors import NoTruthError, UsageError
from compress.core.registry import register
from compress.core.types import ImageSpec
from compress.kit.data.batches import Augmentation
from compress.kit.data.sets import Concat, Dataset, open_pairs, open_photos
from compress.kit.data.unpaired import is_unpaired, open_unpaired, require_pairs
from compress.kit.images import read_rgb, resize_plane
from compress.kit.lesson import Batch, Lesson, Losses, Outputs
from compress.kit.measure import fidelity, losses, metrics
from compress.kit.measure.metrics import Metric
from compress.kit.nets.blocks import resize_like
from compress.tasks.base import EDGE, Baseline, Extra, Score, Task

# Plain names, MIT-Adobe FiveK with its five experts, DPED (its folder of one phone)
INPUTS = ("input", "inputs", "before", "low", "iphone", "blackberry", "sony")
TARGETS = ("target", "targets", "after", "high", *(f"expert{letter}" for letter in "abcde"), "canon")


class Retouch(Task):
    """Pictures of a generator, and what a smaller one learns from its picture and from where it looks."""

    name = "retouch"
    size = 256
    # a photo keeps its own size, as what it is retouched for is its detail
    input = ImageSpec(name="image", channels=3, color="rgb", fit="native", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    output = ImageSpec(name="picture", channels=3, color="rgb", low=0.0, high=1.0)
    metrics = (
        Metric("loss", "1", "lower", "mean absolute difference of the values 0..1 (L1)"),
        Metric("mae", "1", "lower", "mean absolute error: the loss under the name it has in every task"),
        Metric("psnr", "dB", "higher", "peak signal to noise ratio, mean over images"),
        Metric("ssim", "1", "higher", "structural similarity, Gaussian window, mean over channels"),
        Metric("deltae", "1", "lower", "colour difference CIEDE2000, mean over pixels"),
        Metric("dead_masks", "count", "lower", "images that came out as one flat colour though the target is none"),
    )
    # Crops at the photo's own scale down to the whole photo. Other light on the input alone would be a fault of ours to
    # undo, beside those of the photo.
    augmentation = Augmentation(keep=3.0, closest=0.0, relight=False)

    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open ``input/`` + ``target/``, ``A/`` + ``B/``, folders of good photos alone, and "builtin", as one data set.

        Photos alone are the targets; each input is its photo spoilt by (seed, name), see ``kit.data.degrade``. Photos
        of ``A/`` and ``B/`` are no pairs and only there to train on (``kit.data.unpaired``): other splits have none.

        Raises:
            DataError: If a folder is absent or empty, an input has no target or the reverse, or nothing is left in
                that split.
            NoTruthError: If all there is are unpaired photos, and another split than "train" is asked.
        """
        from compress.kit.data.degrade import Crops, Degraded

        folders = [entry for entry in data if entry != "builtin"]
        pairs = [folder for folder in folders if _has_pairs(Path(folder))]
        heaps = [folder for folder in folders if folder not in pairs and is_unpaired(folder)]
        photos = [folder for folder in folders if folder not in (*pairs, *heaps)]
        parts: list[Dataset] = []
        if pairs or not data:
            found = open_pairs(pairs, split, image_dirs=INPUTS, target_dirs=TARGETS, seed=seed, read_target=read_rgb)
            parts.append(found)
        if photos:
            parts.append(Degraded(open_photos(photos, split, seed=seed), seed))
        if "builtin" in data:
            parts.append(Degraded(Crops(split, seed), seed))
        for heap in heaps:
            try:
                parts.append(open_unpaired(heap, split, seed=seed))
            except NoTruthError:
                if not parts:
                    raise
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def teach(self, data: Dataset) -> Lesson:
        """L1 to the target.

        Raises:
            UsageError: If the photos are no pairs.
        """
        require_pairs(data)
        return Lesson(self.loss)

    def baseline(self, train: Dataset) -> Baseline:  # noqa: ARG002
        """Take the photo as it is."""
        return Baseline("identity", self.as_prediction)

    def extras(
        self, *, lpips: Path | None = None, lpips_backbone: Path | None = None, fid: Path | None = None
    ) -> Sequence[Extra]:
        """What networks say of how alike pictures are, where the user has their weights.

        Args:
            lpips: Weights of LPIPS v0.1 (lin0.model.1.weight, ...), its backbone beside them or in a file of its own.
            lpips_backbone: VGG-16 or AlexNet by torchvision's key names.
            fid: Feature network for the Frechet distance, .onnx or TorchScript .pt.

        Raises:
            ArtifactError: If a file holds something else.
        """
        from compress.kit.measure.fid import FidExtra
        from compress.kit.measure.perceptual import LpipsExtra

        if lpips_backbone and not lpips:
            raise UsageError("--lpips-backbone without --lpips measures nothing", hint="give --lpips vgg.pth too")
        found: list[Extra] = [_AtSize(LpipsExtra(lpips, lpips_backbone))] if lpips else []
        return [*found, _AtSize(FidExtra(fid))] if fid else found

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """L1 of the picture, values 0..1: mean over N, C, H, W.

        outputs: the raw picture (N, 3, H, W), then features, which have no labels; batch["target"]: (N, 3, H, W).
        """
        return {"loss": F.l1_loss(self.activate(outputs[0]), batch["target"])}

    def levels(self, outputs: Outputs) -> Outputs:
        """The picture alone: what a network gives beside it are features."""
        return outputs[:1]

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:  # noqa: ARG002
        """Refuse: pictures are no distribution that could be softened.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"T = {temperature:g} has no meaning here: the L1 of pictures has no temperature",
            hint='take the term "picture" instead of "kl", or "attention" on = "features"',
        )

    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """L1 of the picture to the labels, as in ``loss``; the picture is brought to their size."""
        return F.l1_loss(self.activate(resize_like(losses.full(output), batch["target"])), batch["target"])

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """(tanh + 1) / 2: raw (N, 3, H, W) to a picture in 0..1; pix2pixHD's generator ends on the tanh."""
        return (torch.tanh(losses.full(output)) + 1.0) / 2.0

    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """atanh(2 p - 1) = logit(p) / 2: a picture (N, 3, H, W) in 0..1 to what comes before tanh, +-6.9 at most."""
        return torch.logit(losses.full(picture), EDGE) / 2.0

    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Measure one picture at its photo's size. prediction: (3, h, w) in 0..1; target: (H, W, 3) 0..255.

        Values that are not numbers count as black, and the picture as dead.
        """
        truth = np.asarray(target, dtype=np.float64) / 255.0
        picture = _resized(prediction, truth.shape[:2]).astype(np.float64)
        error = metrics.mean_absolute_error(picture, truth)
        return {
            "loss": error,
            "mae": error,
            "psnr": fidelity.psnr(picture, truth),
            "ssim": fidelity.ssim(picture, truth),
            "deltae": fidelity.delta_e(picture, truth),
            "dead": float(_is_flat(prediction) and not _is_flat(np.moveaxis(truth, -1, 0))),
        }

    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Mean of every metric over images; dead pictures and images counted."""
        assert scores, "no scores to sum up"
        keys = ("loss", "mae", "psnr", "ssim", "deltae")
        means = {key: sum(float(score[key]) for score in scores) / len(scores) for key in keys}
        dead = sum(float(score["dead"]) for score in scores)
        return {**means, "dead_masks": dead, "images": float(len(scores))}

    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """Draw "retouched", RGB, at the photo's size. photo: (H, W, 3); prediction: (3, h, w) in 0..1."""
        levels = np.rint(_resized(prediction, photo.shape[:2]) * 255.0).astype(np.uint8)
        return {"retouched": PIL.Image.fromarray(levels)}


class _AtSize:
    """An extra that gets every prediction at its target's size."""

    def __init__(self, extra: Extra) -> None:
        self.extra, self.metric = extra, extra.metric

    def add(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
        self.extra.add(np.moveaxis(_resized(prediction, target.shape[:2]), -1, 0), target)

    def result(self) -> float:
        return self.extra.result()


def _has_pairs(folder: Path) -> bool:
    """Whether a folder, or one below it such as train/, has a folder that is named like inputs or targets."""
    if not folder.is_dir():
        return False
    inside = [part for part in folder.iterdir() if part.is_dir()]
    below = [part for middle in inside for part in middle.iterdir() if part.is_dir()]
    return any(part.name.lower() in (*INPUTS, *TARGETS) for part in (*inside, *below))


def _is_flat(picture: NDArray[np.float32] | NDArray[np.float64]) -> bool:
    """Whether a picture (3, H, W) is one colour: every plane of it is flat."""
    return all(metrics.is_flat(plane) for plane in picture)


def _resized(prediction: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize a picture (3, h, w) to (height, width, 3), bilinear, antialiased where it shrinks; NaN becomes 0."""
    assert prediction.ndim == 3 and prediction.shape[0] == 3, f"picture {prediction.shape}, wanted (3, h, w)"
    return np.stack([resize_plane(plane, size) for plane in prediction], axis=-1)


register(__name__, Retouch())
