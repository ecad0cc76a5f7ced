"""U-Net for the classes of Pascal VOC, 64 to 1024 channels, 31.0 M parameters (S4; Ronneberger et al. 2015)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.unet import UNet, cap, unet_branches, unet_taps

WIDTHS = (64, 128, 256, 512, 1024)


@network(
    task="segmentation",
    size=256,
    stride=1,
    student="unet_slim",
    taps=unet_taps(5),
    parameters=31_033_045,
    branches=unet_branches(5),
)
def build(width: int | None = None, classes: int = 21) -> UNet:
    """Build it: image (N, 3, H, W) to logits (N, classes, H, W)."""
    return UNet(cap(WIDTHS, width), classes)
