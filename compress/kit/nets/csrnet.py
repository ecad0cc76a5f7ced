"""CSRNet: a retoucher of 36 thousand parameters, the same curves for every pixel (He et al., ECCV 2020)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from compress.kit.nets.pix2pixhd import fill_up

LEAST = 8  # pixels a side below which the condition network would have nothing left to look at


class Modulated(nn.Module):
    """1x1 convolution, then x + scale * x + shift with both drawn from the condition (section 3.2, GFM)."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.scale = nn.Linear(condition, outputs)
        self.shift = nn.Linear(condition, outputs)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Map features (N, in, H, W) and condition (N, K) to (N, out, H, W)."""
        x: Tensor = self.conv(features)
        modulated: Tensor = x + x * self.scale(condition)[:, :, None, None] + self.shift(condition)[:, :, None, None]
        return modulated


class Condition(nn.Module):
    """What is wrong with a photo in one vector: three convolutions of stride 2 and the mean over the picture."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(nn.Conv2d(channels, width, 7, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU()),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map image (N, C, H, W), sides 5 or more, to (N, width)."""
        vector: Tensor = self.convs(image).mean((2, 3))
        return vector


class CsrNet(nn.Module):
    """Three 1x1 convolutions, modulated by a condition: global retouching of photos of any size (He et al. 2020).

    Published, the third one's output is the picture; here the task's tanh comes after it, as after every generator.

    Args:
        base: Channels between the 1x1 convolutions.
        condition: Length of the condition.
    """

    def __init__(self, base: int, condition: int) -> None:
        super().__init__()
        self.condition = Condition(3, condition)
        self.first = Modulated(3, base, condition)
        self.second = Modulated(base, base, condition)
        self.third = Modulated(base, 3, condition)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to the raw picture (N, 3, H, W)."""
        condition = self.condition(fill_up(image, 1, least=LEAST))
        x = F.relu(self.first(image, condition))
        x = F.relu(self.second(x, condition))
        return (self.third(x, condition),)


def build_csrnet(width: int | None = None) -> CsrNet:
    """Build it as published: 64 channels, a condition of 32; width caps both, None for no cap."""
    base, condition = (size if width is None else min(size, width) for size in (64, 32))
    return CsrNet(base, condition)
