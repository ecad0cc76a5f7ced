"""The generator of pix2pixHD for retouch: a global network and a local enhancer, 31.8 MB (S2)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compress.core.networks import network
from compress.core.store import sha256_of
from compress.kit.data.sets import Dataset
from compress.kit.data.unpaired import require_pairs
from compress.kit.lesson import Lesson, Subject
from compress.kit.measure.perceptual import also_perceptual
from compress.kit.nets.adversary import Contest, against, paired_loss
from compress.kit.nets.pix2pixhd import Generator, branches, build_pix2pixhd, in_stages, taps, whole


def teach(
    task: Subject,
    data: Dataset,
    *,
    stages: bool = True,
    gan: Literal["lsgan", "hinge"] = "lsgan",
    scales: int = 3,
    ndf: int = 64,
    spectral_norm: bool = False,
    gradient_penalty: float = 0.0,
    adversarial: float = 0.01,
    matching: float = 10.0,
    perceptual: Path | None = None,
    perceptual_weight: float = 0.1,
) -> Lesson:
    """Teach L1 + adversarial * (GAN + matching * feature matching), and features of a VGG where its weights are given.

    Isola et al. 2017, section 3.3: 100 L1 + GAN; Wang et al. 2018, equation 5: GAN + 10 feature matching; all over
    100, so that the loss stays an L1 with something on top; Adam does not mind.

    Args:
        stages: Train G1 alone, then the enhancer, then both; or all from the start.
        gan: Loss of the discriminators.
        scales: How many discriminators, each at half the size of the one before.
        ndf: Channels of the discriminators' first layers.
        spectral_norm: Divide the discriminators' convolutions by their largest singular values.
        gradient_penalty: Weight of R1 on real pairs, 0 for none; 10 is usual.
        adversarial: Weight of the discriminators, 0 for none.
        matching: Weight of feature matching within that.
        perceptual: Weights of a VGG-16 or VGG-19 (torchvision) whose features are to agree.
        perceptual_weight: Weight of that.

    Raises:
        UsageError: If the photos are no pairs, or a weight can't be.
        ArtifactError: If the file holds no such network.
    """
    require_pairs(data)
    terms = Contest(
        gan, adversarial, matching, scales, ndf, spectral_norm=spectral_norm, gradient_penalty=gradient_penalty
    )
    loss = paired_loss(task)
    settings: dict[str, object] = {"stages": stages}
    if perceptual:
        loss = also_perceptual(loss, task.activate, perceptual, perceptual_weight)
        settings |= {"perceptual": sha256_of(perceptual), "perceptual_weight": perceptual_weight}
    phases = in_stages() if stages else (whole(),)
    return Lesson(loss, against(terms), phases, ema=0.999, settings=settings)


@network(
    task="retouch",
    size=256,
    stride=1,
    student="retouch_small",
    taps=taps(),
    branches=branches(),
    parameters=7_957_958,
    teach=teach,
)
def build(width: int | None = None, blocks: Literal["residual", "rsu"] = "residual", enhancers: int = 1) -> Generator:
    """Build it: image (N, 3, H, W) to the raw picture of that size, features, and G1's raw picture at half the size.

    Args:
        width: Cap of every channel count.
        blocks: Kind of the blocks.
        enhancers: How many local enhancers, 0 to 4.
    """
    return build_pix2pixhd(64, (6, 1), width=width, blocks=blocks, enhancers=enhancers, coarse=True)
