"""The coarse-to-fine generator of pix2pixHD: a global network and stackable enhancers (Wang et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import UsageError, unknown
from compress.kit.blocks import ConvBnRelu, Rsu

MAX_ENHANCERS = 4


class InstanceNorm(nn.Module):
    """Normalise each channel of each picture, then add a learned shift: (N, C, H, W), H * W > 1, to the same shape.

    The shift stands in for the bias of the convolution before it: pix2pixHD's own code has that bias in front of
    the norm, which subtracts it again, so that it can't learn anything. The count of parameters is the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map features to zero mean (before the shift) and unit variance over H and W."""
        return F.instance_norm(features, bias=self.bias)


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), reflected borders: (N, C, H, W) to the same shape, H and W 2 or more."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(channels, channels, 3), nn.ReLU(), *_conv(channels, channels, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Add what the two convolutions find."""
        total: Tensor = features + self.body(features)
        return total


def _rsu(channels: int) -> nn.Module:
    """RSU-4F (dilated, so that any size passes); 7/32 of the channels inside cost what a residual block costs.

    Its norms are this network's: six blocks of batch norm in eval mode shrank G1's signal to nothing at the start.
    """
    block = Rsu(4, channels, max(channels * 7 // 32, 1), channels, dilated=True)
    for part in block.modules():
        if isinstance(part, ConvBnRelu):
            part.conv_s1.register_parameter("bias", None)
            part.add_module("bn_s1", InstanceNorm(part.conv_s1.out_channels))
    return block


BLOCKS: dict[str, Callable[[int], nn.Module]] = {"residual": Residual, "rsu": _rsu}


class Unit(nn.Module):
    """One generator: a convolutional front, blocks, and a transposed back (section 3.2, after Johnson et al. 2016).

    Args:
        channels: Of the picture.
        widths: Channels at full size and after each halving.
        count: Number of blocks at the smallest size.
        block: Makes a block of so many channels.
    """

    def __init__(self, channels: int, widths: Sequence[int], count: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        front = [*_conv(channels, widths[0], 7), nn.ReLU()]
        for wide, narrow in steps:
            front += [nn.Conv2d(wide, narrow, 3, stride=2, padding=1, bias=False), InstanceNorm(narrow), nn.ReLU()]
        back: list[nn.Module] = []
        for wide, narrow in reversed(steps):
            up = nn.ConvTranspose2d(narrow, wide, 3, stride=2, padding=1, output_padding=1, bias=False)
            back += [up, InstanceNorm(wide), nn.ReLU()]
        self.front = nn.Sequential(*front)
        self.blocks = nn.Sequential(*(block(widths[-1]) for _ in range(count)))
        self.back = nn.Sequential(*back)

    def forward(self, picture: Tensor, below: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map a picture (N, C, H, W) to the features of the blocks and those of the back, (N, widths[0], H, W).

        below: the last features of the next coarser generator; they are added to the front's (section 3.2).
        """
        features: Tensor = self.front(picture)
        trunk: Tensor = self.blocks(features if below is None else features + below)
        return trunk, self.back(trunk)


class Generator(nn.Module):
    """G1 at the coarsest size and enhancers that double the size, one above the other; sides of any length.

    Args:
        g1: The global generator.
        enhancers: The coarser ones first; each takes as many features after its first halving as the one below gives.
        head: Maps the finest features to the picture.
        stride: Sides are filled up to a multiple of this by reflection, and the picture is cut back.
    """

    def __init__(self, g1: Unit, enhancers: Sequence[Unit], head: nn.Module, stride: int) -> None:
        super().__init__()
        self.g1 = g1
        self.enhancers = nn.ModuleList(enhancers)
        self.head = head
        self.stride = stride

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, C, H, W) to (raw picture (N, 3, H, W), features...), the finest generator's features first.

        Of each enhancer its blocks' output; of G1 its last features, then its blocks' output.
        """
        pyramid = [fill_up(image, self.stride)]
        for _ in self.enhancers:
            # the published code's halving
            pyramid.append(F.avg_pool2d(pyramid[-1], 3, stride=2, padding=1, count_include_pad=False))
        trunk, features = self.g1(pyramid.pop())
        levels = [features, trunk]
        for enhancer in self.enhancers:
            trunk, features = enhancer(pyramid.pop(), features)
            levels.insert(0, trunk)
        height, width = image.shape[2:]
        return (self.head(features)[:, :, :height, :width], *levels)


def fill_up(image: Tensor, multiple: int) -> Tensor:
    """Reflect image (N, C, H, W) to the right and below until both sides are a multiple of ``multiple``.

    A picture with a side below two multiples has its last row and column repeated instead, up to two at least: the
    lowest maps would be too small to reflect and to take a norm over.
    """
    height, width = image.shape[2:]
    if min(height, width) >= 2 * multiple:
        return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="reflect")
    tall, wide = (max(side + -side % multiple, 2 * multiple) for side in (height, width))
    return F.pad(image, (0, wide - width, 0, tall - height), mode="replicate")


def build_pix2pixhd(
    ngf: int,
    counts: tuple[int, int],
    *,
    width: int | None = None,
    blocks: str = "residual",
    enhancers: int = 1,
    downsamplings: int = 2,
    channels: int = 3,
) -> Generator:
    """Build the generator, its weights drawn from N(0, 0.02) as published.

    Args:
        ngf: Channels of G1 at its full size; each enhancer above has half of the one below it.
        counts: Blocks of G1 and of each enhancer.
        width: Cap of every channel count, None for none.
        blocks: "residual" or "rsu".
        enhancers: How many, 0 (G1 alone) to 4.
        downsamplings: Halvings inside G1.
        channels: Of the picture.

    Raises:
        UsageError: For blocks or enhancers that can't be.
    """
    if blocks not in BLOCKS:
        raise unknown("kind of block", blocks, list(BLOCKS))
    if not 0 <= enhancers <= MAX_ENHANCERS:
        raise UsageError(f"a generator has 0 to {MAX_ENHANCERS} enhancers, found {enhancers}", hint="give 1")

    def cap(*counts: int) -> list[int]:
        return [count if width is None else min(count, width) for count in counts]

    g1 = Unit(channels, cap(*(ngf << level for level in range(downsamplings + 1))), counts[0], BLOCKS[blocks])
    stack = [
        Unit(channels, cap(ngf >> level, ngf >> level - 1), counts[1], BLOCKS[blocks])
        for level in range(1, enhancers + 1)
    ]
    (finest,) = cap(ngf >> enhancers)
    head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(finest, 3, 7))
    net = Generator(g1, stack, head, 2 ** (downsamplings + enhancers))
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
    return net


def taps(enhancers: int = 1) -> tuple[str, ...]:
    """Module paths whose outputs are worth comparing: front, blocks and back of every generator."""
    units = ("g1", *(f"enhancers.{index}" for index in range(enhancers)))
    return tuple(f"{unit}.{part}" for unit in units for part in ("front", "blocks", "back"))


def _conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    return (
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(inputs, outputs, kernel, bias=False),
        InstanceNorm(outputs),
    )
