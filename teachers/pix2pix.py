"""The generator of pix2pix for retouch: a U-Net of eight levels against one discriminator, 218 MB (S2's baseline)."""

from __future__ import annotations

from typing import Literal

from compress.core.networks import network
from compress.kit.data.sets import Dataset
from compress.kit.data.unpaired import require_pairs
from compress.kit.lesson import Lesson, Subject
from compress.kit.nets.adversary import Contest, against, paired_loss
from compress.kit.nets.pix2pix import Pix2Pix, build_pix2pix, pix2pix_branches, pix2pix_taps


def teach(
    task: Subject,
    data: Dataset,
    *,
    gan: Literal["vanilla", "lsgan"] = "vanilla",
    ndf: int = 64,
    spectral_norm: bool = False,
    gradient_penalty: float = 0.0,
    adversarial: float = 0.01,
) -> Lesson:
    """Teach L1 + adversarial * GAN (Isola et al. 2017, section 3.3: 100 L1 + GAN, all over 100).

    Args:
        gan: Loss of the discriminator.
        ndf: Channels of the discriminator's first layer.
        spectral_norm: Divide the discriminator's convolutions by their largest singular values.
        gradient_penalty: Weight of R1 on real pairs, 0 for none; 10 is usual.
        adversarial: Weight of the discriminator, 0 for none.

    Raises:
        UsageError: If the photos are no pairs, or a weight can't be.
    """
    require_pairs(data)
    terms = Contest(gan, adversarial, 0.0, 1, ndf, True, spectral_norm, gradient_penalty)
    return Lesson(paired_loss(task), against(terms), ema=0.999)


@network(
    task="retouch",
    size=256,
    stride=1,
    student="retouch_small",
    taps=pix2pix_taps(),
    branches=pix2pix_branches(),
    parameters=54_413_955,
    teach=teach,
)
def build(width: int | None = None, levels: int = 8) -> Pix2Pix:
    """Build it: image (N, 3, H, W) to the raw picture of that size.

    Args:
        width: Cap of every channel count.
        levels: How often the picture is halved; sides are filled up to multiples of 2**levels.
    """
    return build_pix2pix(width, levels)
