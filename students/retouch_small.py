"""The student for retouch, 12.1 MB: pix2pixHD's generator with fewer blocks where channels are many (S2)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.pix2pixhd import Generator, build_pix2pixhd, taps


@network(task="retouch", size=256, stride=1, taps=taps(), parameters=3_033_003)
def build(width: int | None = None, blocks: str = "residual", enhancers: int = 1) -> Generator:
    """Build it: image (N, 3, H, W) to the raw picture of that size and features; blocks "residual" or "rsu"."""
    return build_pix2pixhd(60, (2, 4), width=width, blocks=blocks, enhancers=enhancers)
