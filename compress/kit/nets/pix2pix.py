"""The generator of pix2pix: a U-Net that halves the picture down to one pixel (Isola et al. 2017, section 6.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.nets.pix2pixhd import InstanceNorm, fill_up, initialize

FEWEST, MOST = 2, 10  # levels


class Down(nn.Module):
    """Leaky ReLU (not before the photo), 4x4 convolution of stride 2, norm: (N, in, H, W) to (N, out, H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int, *, first: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.first = first
        self.conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm = InstanceNorm(outputs, scaled=True) if norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Halve the sides, which are even."""
        halved: Tensor = self.norm(self.conv(features if self.first else F.leaky_relu(features, 0.2)))
        return halved


class Up(nn.Module):
    """ReLU, 4x4 transposed convolution of stride 2, norm, dropout: (N, in, H, W) to (N, out, 2 H, 2 W)."""

    def __init__(self, inputs: int, outputs: int, *, dropout: bool = False) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm = InstanceNorm(outputs, scaled=True)
        self.dropout = nn.Dropout(0.5 if dropout else 0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Double the sides."""
        doubled: Tensor = self.dropout(self.norm(self.conv(F.relu(features))))
        return doubled


class Join(nn.Module):
    """A skip beside what came up from below, a part of its own so that both can be looked at."""

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Concatenate (N, C, H, W) and (N, C', H, W)."""
        return torch.cat((skip, below), 1)


class Pix2Pix(nn.Module):
    """U-Net of ``levels`` halvings with skips, for images of any size.

    Its norms take their statistics over each picture alone, in training as in use: batch norm at the published batch
    size of 1, where training and use agree as well (Isola et al. 2017, section 3.4), at any batch size.

    Args:
        widths: Channels of each level.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = len(widths)
        for level, (source, width) in enumerate(zip((3, *widths), widths, strict=False), start=1):
            # one pixel has no spread to take a norm by
            plain = level in (1, self.levels)
            self.add_module(f"down{level}", Down(source, width, first=level == 1, norm=not plain))
        for level in range(self.levels, 1, -1):
            source = widths[level - 1] * (1 if level == self.levels else 2)
            # of 8 levels the lowest three, as published
            self.add_module(f"up{level}", Up(source, widths[level - 2], dropout=level > 5))
            self.add_module(f"join{level - 1}", Join())
        self.head = nn.ConvTranspose2d(2 * widths[0], 3, 4, stride=2, padding=1)
        initialize(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to the raw picture (N, 3, H, W); sides are filled up to multiples of 2**levels."""
        height, width = image.shape[2:]
        x = fill_up(image, 2**self.levels, least=1)
        skips: list[Tensor] = []
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"down{level}")(x)
            skips.append(x)
        x = skips.pop()
        for level in range(self.levels, 1, -1):
            x = self.get_submodule(f"join{level - 1}")(skips.pop(), self.get_submodule(f"up{level}")(x))
        return (self.head(F.relu(x))[:, :, :height, :width],)


def build_pix2pix(width: int | None = None, levels: int = 8, ngf: int = 64) -> Pix2Pix:
    """Build the generator: ngf, 2 ngf, 4 ngf, then 8 ngf channels; width caps them, None for no cap.

    Raises:
        UsageError: If there are too few or too many levels.
    """
    if not FEWEST <= levels <= MOST:
        raise UsageError(f"a U-Net here has {FEWEST} to {MOST} levels, found {levels}", hint="give --levels 8")
    full = [ngf << min(level, 3) for level in range(levels)]
    return Pix2Pix(tuple(full if width is None else (min(channels, width) for channels in full)))


def pix2pix_taps(levels: int = 8) -> tuple[str, ...]:
    """Module paths whose outputs are worth comparing, in the order they run."""
    return (*(f"down{k}" for k in range(1, levels + 1)), *(f"up{k}" for k in range(levels, 1, -1)))


def pix2pix_branches(levels: int = 8) -> tuple[str, ...]:
    """The skip of each level and what comes up from below beside it, the finest level first."""
    return tuple(f"join{k}:{argument}" for k in range(1, levels) for argument in (0, 1))
