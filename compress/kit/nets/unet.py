"""U-Net from a table of widths, alone or on a VGG-16 encoder (Ronneberger et al. 2015; Simonyan & Zisserman 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from compress.core.errors import ArtifactError
from compress.kit.graph import load_state, read_checkpoint
from compress.kit.nets.blocks import halve

# Simonyan & Zisserman 2015, table 1, column D: widths of the 3x3 convolutions between two poolings
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def unet_taps(levels: int) -> tuple[str, ...]:
    """Paths of the blocks of a ``UNet`` of so many widths, in the order they run."""
    return (*(f"down{k}" for k in range(1, levels)), "bottom", *(f"up{k}" for k in range(levels - 1, 0, -1)))


def unet_branches(levels: int) -> tuple[str, ...]:
    """Parts of a U of so many levels that must be alive: what comes up from the bottom, and each level's skip."""
    return (f"up{levels - 1}:0", *(f"up{k}:1" for k in range(levels - 1, 0, -1)))


def cap(widths: Sequence[int], width: int | None) -> list[int]:
    """Cap every width at ``width`` (None: as they are)."""
    return [n if width is None else min(n, width) for n in widths]


def conv_block(in_channels: int, widths: Sequence[int], *, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions of those widths, each with ReLU after it (and batch norm before that), the size kept."""
    parts: list[nn.Module] = []
    for width in widths:
        parts += [nn.Conv2d(in_channels, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*parts)


class Up(nn.Module):
    """A decoder level: 2x2 transposed convolution of stride 2, the skip beside it, two convolutions."""

    def __init__(self, in_channels: int, width: int, *, norm: bool = False) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, width, 2, stride=2)
        self.block = conv_block(2 * width, (width, width), norm=norm)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Map features (N, in, ceil(H / 2), ceil(W / 2)) and skip (N, width, H, W) to (N, width, H, W)."""
        # pooling rounds odd sides up: what came back is a row or column too large there
        grown = self.up(features)[:, :, : skip.shape[2], : skip.shape[3]]
        return cast("Tensor", self.block(torch.cat((skip, grown), 1)))


class UNet(nn.Module):
    """U-Net for images of any size: (conv-ReLU) twice a block, max-pooling by 2, skips concatenated, a 1x1 head.

    Convolutions are padded, so that maps keep their size (Ronneberger et al. crop theirs).

    Args:
        widths: Channels of each level, the last the bottleneck's.
        classes: Channels of the output.
        norm: Put a batch norm after each 3x3 convolution.
    """

    def __init__(self, widths: Sequence[int], classes: int, *, norm: bool = False) -> None:
        super().__init__()
        self.levels = len(widths)
        for level, (source, width) in enumerate(zip((3, *widths), widths, strict=False), start=1):
            name = "bottom" if level == self.levels else f"down{level}"
            self.add_module(name, conv_block(source, (width, width), norm=norm))
        for level in range(self.levels - 1, 0, -1):
            self.add_module(f"up{level}", Up(widths[level], widths[level - 1], norm=norm))
        self.head = nn.Conv2d(widths[0], classes, 1)
        if not norm:  # a batch norm undoes whatever scale the weights before it have
            _initialize(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to logits (N, classes, H, W)."""
        skips: list[Tensor] = []
        x = image
        for level in range(1, self.levels):
            x = self.get_submodule(f"down{level}")(halve(x) if skips else x)
            skips.append(x)
        x = self.get_submodule("bottom")(halve(x))
        for level in range(self.levels - 1, 0, -1):
            x = self.get_submodule(f"up{level}")(x, skips.pop())
        return (self.head(x),)


class VggUNet(nn.Module):
    """U-Net whose encoder is VGG-16 up to its thirteenth convolution, at 1/16 of the image's sides.

    The encoder's keys are torchvision's, ``features.0.weight`` to ``features.28.bias``.

    Args:
        stages: Widths of the encoder's convolutions between poolings.
        classes: Channels of the output.
    """

    def __init__(self, stages: Sequence[Sequence[int]], classes: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        ends: list[int] = []  # how far each stage reaches into the features
        source = 3
        for number, widths in enumerate(stages):
            # poolings count in torchvision's numbers; odd sides are rounded up as everywhere in this U
            parts += [nn.MaxPool2d(2, ceil_mode=True)] * (number > 0)
            parts += conv_block(source, widths)
            ends.append(len(parts))
            source = widths[-1]
        self.features = nn.Sequential(*parts)
        self.ends = tuple(ends)
        outs = [widths[-1] for widths in stages]
        for level in range(len(outs) - 1, 0, -1):
            self.add_module(f"up{level}", Up(outs[level], outs[level - 1]))
        self.head = nn.Conv2d(outs[0], classes, 1)
        _initialize(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to logits (N, classes, H, W)."""
        maps: list[Tensor] = []
        x = image
        for first, end in zip((0, *self.ends), self.ends, strict=False):
            for part in list(self.features)[first:end]:
                x = part(x)
            maps.append(x)
        x = maps.pop()
        for level in range(len(maps), 0, -1):
            x = self.get_submodule(f"up{level}")(x, maps.pop())
        return (self.head(x),)


def load_encoder(net: VggUNet, path: str | Path) -> None:
    """Load a VGG-16's convolutions from its weights file (torchvision's key names); its classifier is left out.

    Raises:
        ArtifactError: If the file holds no weights, or others than VGG-16's.
    """
    state: Mapping[str, Tensor] = read_checkpoint(path)
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    if not features:
        raise ArtifactError(
            f"'{Path(path).name}' holds no VGG-16: found {', '.join(list(state)[:3])}, wanted features.0.weight",
            hint="give the state dictionary of a VGG-16 without batch norm",
        )
    load_state(net.features, features)


def _initialize(net: nn.Module) -> None:
    """Draw weights of variance 2 / fan-in (Ronneberger et al. 2015, section 3); no ReLU follows a transposed one."""
    for part in net.modules():
        if isinstance(part, nn.ConvTranspose2d):
            # each output pixel of a 2x2 kernel with stride 2 reads one input pixel
            nn.init.normal_(part.weight, std=part.in_channels**-0.5)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
            nn.init.zeros_(part.bias)
