"""U²-Net Small for background removal: 64 channels between stages, 9.8 MB (S1)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

ROWS = mirrored(64, (16, 24, 24, 32, 64, 64))


@network(
    task="saliency",
    size=320,
    stride=1,
    taps=STAGES,
    parameters=2_449_645,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None) -> U2Net:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first."""
    return build_u2net(ROWS, width, stages)
