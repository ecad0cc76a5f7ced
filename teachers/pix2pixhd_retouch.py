"""The generator of pix2pixHD for retouch: a global network and a local enhancer, 31.8 MB (S2)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.pix2pixhd import Generator, build_pix2pixhd, taps


@network(task="retouch", size=256, stride=1, student="retouch_small", taps=taps(), parameters=7_948_547)
def build(width: int | None = None, blocks: str = "residual", enhancers: int = 1) -> Generator:
    """Build it: image (N, 3, H, W) to the raw picture of that size and features; blocks "residual" or "rsu"."""
    return build_pix2pixhd(64, (6, 1), width=width, blocks=blocks, enhancers=enhancers)
