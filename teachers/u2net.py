"""U²-Net as published: 44.0 M parameters, 176.0 MB; loads the official checkpoint (Qin et al. 2020)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net

# Qin et al. 2020, table 1
ROWS = (
    (7, 32, 64),
    (6, 32, 128),
    (5, 64, 256),
    (4, 128, 512),
    (4, 256, 512),
    (4, 256, 512),
    (4, 256, 512),
    (4, 128, 256),
    (5, 64, 128),
    (6, 32, 64),
    (7, 16, 64),
)


@network(
    task="saliency",
    size=320,
    stride=1,
    student="u2netp",
    taps=STAGES,
    parameters=44_009_869,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None) -> U2Net:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first."""
    return build_u2net(ROWS, width, stages)
