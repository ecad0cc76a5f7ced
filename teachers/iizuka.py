"""Iizuka et al.'s colorizer with jointly trained global features, what S7's is compared with; no classification."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.iizuka import Iizuka

TAPS = ("low", "middle", "globals", "fusion", "decoder.at4")


@network(
    task="color",
    size=224,
    stride=1,
    student="colorizer_small",
    taps=TAPS,
    parameters=42_174_530,
    branches=("dense", "middle"),
)
def build(width: int | None = None) -> Iizuka:
    """Build it: image (N, 1, H, W) to raw ab (N, 2, H, W), features at 1/4 of the sides and fused ones at 1/8."""
    return Iizuka(width)
