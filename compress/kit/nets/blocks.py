"""Building blocks of networks: convolution + norm + ReLU, resize to a skip's size, residual U-blocks (RSU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize_like(features: Tensor, skip: Tensor) -> Tensor:
    """Resize features (N, C, h, w) bilinearly to the size of skip (N, C', H, W): (N, C, H, W)."""
    return F.interpolate(features, size=skip.shape[2:], mode="bilinear", align_corners=False)


def halve(features: Tensor) -> Tensor:
    """Max-pool features (N, C, H, W) by 2, odd sides rounded up: (N, C, ceil(H / 2), ceil(W / 2))."""
    return F.max_pool2d(features, kernel_size=2, stride=2, ceil_mode=True)


class ConvBnRelu(nn.Module):
    """3x3 convolution, batch norm and ReLU that keep the size: (N, in, H, W) to (N, out, H, W).

    The names of its parts are those of the official U²-Net checkpoints.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(out_channels)
        self.relu_s1 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, in, H, W) to (N, out, H, W), values >= 0."""
        return cast("Tensor", self.relu_s1(self.bn_s1(self.conv_s1(features))))


class Rsu(nn.Module):
    """RSU-L: a U of height L inside a residual block, F1(x) + U(F1(x)) (Qin et al. 2020, section 3.1).

    Args:
        height: L, the number of levels of the inner U, 2 or more.
        in_channels: Channels of the input.
        mid: Channels inside the U: one number, or the 2 L - 2 widths of its layers in order (L down, L - 2 up).
        out_channels: Channels of the output.
        dilated: Dilate by 1, 2, 4, ... instead of pooling, so that maps keep their size (RSU-4F).
    """

    def __init__(
        self, height: int, in_channels: int, mid: int | Sequence[int], out_channels: int, *, dilated: bool = False
    ) -> None:
        super().__init__()
        widths = [mid] * (2 * height - 2) if isinstance(mid, int) else list(mid)
        assert len(widths) == 2 * height - 2, (height, mid)
        self.height = height
        self.dilated = dilated
        self.rebnconvin = ConvBnRelu(in_channels, out_channels)
        channels = out_channels
        for level in range(1, height + 1):
            self.add_module(f"rebnconv{level}", ConvBnRelu(channels, widths[level - 1], self._dilation(level)))
            channels = widths[level - 1]
        for level, width in zip(range(height - 1, 0, -1), [*widths[height:], out_channels], strict=True):
            block = ConvBnRelu(channels + widths[level - 1], width, self._dilation(level))
            self.add_module(f"rebnconv{level}d", block)
            channels = width

    def _dilation(self, level: int) -> int:
        if self.dilated:
            return int(2 ** (level - 1))
        return 2 if level == self.height else 1

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, in, H, W) to (N, out, H, W), values >= 0, H and W of any size."""
        source: Tensor = self.rebnconvin(features)
        x = source
        skips: list[Tensor] = []
        for level in range(1, self.height):
            # the two lowest levels of a U share one size: the last has dilation 2 instead of a pooling before it
            x = x if level == 1 or self.dilated else halve(x)
            x = getattr(self, f"rebnconv{level}")(x)
            skips.append(x)
        x = getattr(self, f"rebnconv{self.height}")(x)
        for level in range(self.height - 1, 0, -1):
            skip = skips.pop()
            x = x if level == self.height - 1 or self.dilated else resize_like(x, skip)
            x = getattr(self, f"rebnconv{level}d")(torch.cat((x, skip), 1))
        total: Tensor = source + x
        return total
