"""The generator of CycleGAN for retouch: nine residual blocks, taught by photos that are no pairs (S2's baseline)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.data.sets import Dataset
from compress.kit.lesson import Lesson, Subject
from compress.kit.nets.cyclegan import BLOCKS, cycle_lesson
from compress.kit.nets.pix2pixhd import Generator, build_pix2pixhd, taps


def teach(
    task: Subject,  # noqa: ARG001
    data: Dataset,  # noqa: ARG001
    *,
    cycle: float = 10.0,
    identity: float = 5.0,
    ngf: int = 64,
    ndf: int = 64,
    spectral_norm: bool = False,
) -> Lesson:
    """Teach A to B beside B to A; of pairs it learns no more than of two heaps of photos, see ``cycle_lesson``.

    Args:
        cycle: Weight of what comes back as it was.
        identity: Weight of what is left as it is where nothing is to do.
        ngf: Channels of the first layer of the generator of the way back.
        ndf: Channels of the judges' first layers.
        spectral_norm: Divide the judges' convolutions by their largest singular values.
    """
    return cycle_lesson(cycle, identity, ngf=ngf, ndf=ndf, spectral_norm=spectral_norm)


@network(
    task="retouch",
    size=256,
    stride=1,
    student="retouch_small",
    taps=taps(0),
    branches=("g1.front", "g1.blocks"),
    parameters=11_378_179,
    teach=teach,
)
def build(width: int | None = None) -> Generator:
    """Build it: image (N, 3, H, W) to the raw picture of that size and features.

    Args:
        width: Cap of every channel count.
    """
    return build_pix2pixhd(64, (BLOCKS, 0), width=width, enhancers=0)
