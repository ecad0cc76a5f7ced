"""U-Net alone, with the widths of the VGG U-Net and nothing pretrained: what that one is compared with (S5)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.unet import VGG16, UNet, cap, unet_branches, unet_taps

WIDTHS = tuple(stage[-1] for stage in VGG16)


@network(
    task="segmentation",
    size=256,
    stride=1,
    student="unet_slim",
    taps=unet_taps(5),
    parameters=20_546_261,
    branches=unet_branches(5),
)
def build(width: int | None = None, classes: int = 21) -> UNet:
    """Build it: image (N, 3, H, W) to logits (N, classes, H, W)."""
    return UNet(cap(WIDTHS, width), classes)
