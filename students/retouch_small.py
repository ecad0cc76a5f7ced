"""The student for retouch, 12.1 MB: pix2pixHD's generator with fewer blocks where channels are many (S2)."""

from __future__ import annotations

from typing import Literal

from compress.core.networks import network
from compress.kit.nets.pix2pixhd import Generator, branches, build_pix2pixhd, taps


@network(task="retouch", size=256, stride=1, taps=taps(), branches=branches(), parameters=3_033_003)
def build(width: int | None = None, blocks: Literal["residual", "rsu"] = "residual", enhancers: int = 1) -> Generator:
    """Build it: image (N, 3, H, W) to the raw picture of that size and features.

    Args:
        width: Cap of every channel count.
        blocks: Kind of the blocks.
        enhancers: How many local enhancers, 0 to 4.
    """
    return build_pix2pixhd(60, (2, 4), width=width, blocks=blocks, enhancers=enhancers)
