"""U²-NetP as published: 1.13 M parameters, 4.5 MB; loads the official checkpoint (Qin et al. 2020)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

ROWS = mirrored(64, (16, 16, 16, 16, 16, 16))


@network(
    task="saliency",
    size=320,
    stride=1,
    taps=STAGES,
    parameters=1_131_181,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None) -> U2Net:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first."""
    return build_u2net(ROWS, width, stages)
