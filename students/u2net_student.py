"""The student that learns from U²-Net Big, 9.7 MB: U²-NetP where maps are large, wide where they are small (S3)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

# Slim where a channel costs most time, at full resolution, so that the 9.7 MB sit in the small, cheap maps.
ROWS = mirrored(64, (16, 16, 16, 24, 72, 72))


@network(
    task="saliency",
    size=320,
    stride=1,
    taps=STAGES,
    parameters=2_424_157,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None) -> U2Net:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first."""
    return build_u2net(ROWS, width, stages)
