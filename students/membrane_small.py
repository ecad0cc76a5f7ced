"""The student for membranes: the teacher's U-Net with a tenth of its parameters (S6)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.membrane import LeakyUNet, skips_of
from compress.kit.nets.unet import cap, unet_taps

# slimmer than the teacher's ratio where maps are large and cost most time
WIDTHS = (8, 16, 40, 80, 160)


@network(task="membrane", size=128, stride=1, taps=unet_taps(5), branches=skips_of(5), parameters=750_817)
def build(width: int | None = None) -> LeakyUNet:
    """Build it: grey image (N, 1, H, W) to the mask before its tanh (N, 1, H, W)."""
    return LeakyUNet(cap(WIDTHS, width))
