"""The U-Net for membranes, alone or in a GAN whose discriminator learns to tell how wrong a mask is (S6)."""

from __future__ import annotations

from compress.core.errors import UsageError
from compress.core.networks import network
from compress.kit.data.sets import Dataset
from compress.kit.lesson import Batch, Lesson, Losses, Outputs, Subject
from compress.kit.measure.quality import SOFT, Name, cut
from compress.kit.nets.critic import NAME, Critic
from compress.kit.nets.membrane import LeakyUNet, skips_of
from compress.kit.nets.unet import cap, unet_taps

WIDTHS = (32, 64, 128, 256, 512)


def teach(
    task: Subject,
    data: Dataset,  # noqa: ARG001
    *,
    gan: bool = True,
    quality: Name = "iou2",
    supervised: float = 0.0,
    gradient_penalty: float = 0.0,
    spectral_norm: bool = False,
) -> Lesson:
    """Teach it to minimise the error that a discriminator predicts, or without one the error itself.

    Args:
        gan: Train against the discriminator; without it the network is S6's "U-Net alone".
        quality: The error: module (mean absolute), squaring (mean squared), percent (pixels wrong once cut at 0.5),
            iou (1 - IoU) or iou2 (1 - IoU squared).
        supervised: Weight of the error itself beside what the discriminator predicts; 0: the discriminator alone.
        gradient_penalty: Weight of R1 on true masks in the discriminator's loss, 0 for none; 10 is usual.
        spectral_norm: Divide the discriminator's weights by their largest singular values.

    Raises:
        UsageError: If a weight is below 0, or is given for a discriminator that there is not.
    """
    if not 0 <= supervised < float("inf"):
        raise UsageError(f"a weight is 0 or more, found --supervised {supervised}", hint="give --supervised 0.1")
    if not gan and (supervised or gradient_penalty or spectral_norm):
        raise UsageError(
            "--supervised, --gradient-penalty and --spectral-norm go with the discriminator, which --no-gan leaves out",
            hint="give one or the other",
        )
    weight = supervised if gan else 1.0

    def loss(outputs: Outputs, batch: Batch) -> Losses:
        error = SOFT[quality](task.activate(outputs[0].float()), cut(batch["target"])).mean()
        return {"loss": weight * error, "error": error.detach()}

    rivals = {NAME: Critic(quality, gradient_penalty, spectral_norm).rival()} if gan else {}
    settings = {"gan": gan, "quality": quality, "supervised": supervised}
    return Lesson(loss, rivals, ema=0.99, settings=settings)


@network(
    task="membrane",
    size=128,
    stride=1,
    student="membrane_small",
    taps=unet_taps(5),
    branches=skips_of(5),
    parameters=7_765_409,
    teach=teach,
)
def build(width: int | None = None) -> LeakyUNet:
    """Build it: grey image (N, 1, H, W) to the mask before its tanh (N, 1, H, W)."""
    return LeakyUNet(cap(WIDTHS, width))
