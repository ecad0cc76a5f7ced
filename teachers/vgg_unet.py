"""U-Net on a VGG-16 encoder with torchvision's key names, so that published weights load into it (S5)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.unet import VGG16, VggUNet, cap

TAPS = ("features.29", "up4", "up3", "up2", "up1")


@network(task="segmentation", size=256, stride=1, student="unet_slim", taps=TAPS, parameters=25_855_957)
def build(width: int | None = None, classes: int = 21) -> VggUNet:
    """Build it: image (N, 3, H, W) to logits (N, classes, H, W)."""
    return VggUNet([cap(stage, width) for stage in VGG16], classes)
