"""The coarse-to-fine generator of pix2pixHD: a global network and stackable enhancers (Wang et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import UsageError, unknown
from compress.kit.lesson import Phase
from compress.kit.nets.blocks import ConvBnRelu, Rsu

MAX_ENHANCERS = 4
# Shares of a training's steps: our own choice. A step of G1 alone costs a quarter or less of one of all.
SHARES = (0.4, 0.2, 0.4)
Running = Literal["whole", "g1", "g2"]


class InstanceNorm(nn.Module):
    """Normalise each channel of each picture, then add a learned shift: (N, C, H, W), H * W > 1, to the same shape.

    The shift stands in for the bias of the convolution before it: pix2pixHD's own code has that bias in front of
    the norm, which subtracts it again, so that it can't learn anything. The count of parameters is the same.

    Args:
        channels: C.
        scaled: Whether a learned scale, about 1 at first, comes before the shift.
    """

    def __init__(self, channels: int, *, scaled: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight = nn.Parameter(torch.normal(torch.ones(channels), 0.02)) if scaled else None

    def forward(self, features: Tensor) -> Tensor:
        """Map features to zero mean (before the shift) and unit variance (before the scale) over H and W."""
        return F.instance_norm(features, weight=self.weight, bias=self.bias)


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

    ``running`` is "whole", or what a stage of the training runs: "g1" alone, which paints at its own size, or "g2",
    everything while G1 only looks on and costs no backward pass.

    Args:
        g1: The global generator.
        enhancers: The coarser ones first; each takes as many features after its first halving as the one below gives.
        head: Maps the finest features to the picture.
        stride: Sides are filled up to a multiple of this by reflection, and the picture is cut back.
        coarse: Maps G1's last features to its own picture, where it learns to paint before the enhancers do.
    """

    def __init__(
        self, g1: Unit, enhancers: Sequence[Unit], head: nn.Module, stride: int, coarse: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.g1 = g1
        self.enhancers = nn.ModuleList(enhancers)
        self.head = head
        self.coarse = coarse
        self.stride = stride
        self.running: Running = "whole"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, C, H, W) to (raw picture (N, 3, H, W), features...), the finest generator's features first.

        Of each enhancer its blocks' output; of G1 its last features, then its blocks' output; last, where there is a
        coarse head, G1's own raw picture (N, 3, h, w) of the sides halved, rounded up, once for each enhancer.
        While "g1" runs: that picture and G1's two outputs.
        """
        pyramid = [fill_up(image, self.stride)]
        for _ in self.enhancers:
            # the published code's halving
            pyramid.append(F.avg_pool2d(pyramid[-1], 3, stride=2, padding=1, count_include_pad=False))
        trunk, features = self._global(pyramid.pop())
        levels = [features, trunk]
        height, width = image.shape[2:]
        if self.coarse is not None:
            cut = 2 ** len(self.enhancers)
            levels.append(self.coarse(features)[:, :, : -(-height // cut), : -(-width // cut)])
            if self.running == "g1":
                return (levels.pop(), *levels)
        for enhancer in self.enhancers:
            trunk, features = enhancer(pyramid.pop(), features)
            levels.insert(0, trunk)
        return (self.head(features)[:, :, :height, :width], *levels)

    def _global(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        if self.running == "g2":
            with torch.no_grad():
                given: tuple[Tensor, Tensor] = self.g1(picture)
        else:
            given = self.g1(picture)
        return given


def in_stages() -> tuple[Phase, ...]:
    """G1 alone, then the enhancers above it, then all together (Wang et al. 2018, section 3.2), ``SHARES`` each.

    Several enhancers learn at once. A network without enhancers or coarse head learns whole in every stage.
    """
    return (Phase("g1", SHARES[0], _g1_alone), Phase("g2", SHARES[1], _enhancers_alone), whole(SHARES[2]))


def whole(share: float = 1.0) -> Phase:
    """All together; the coarse head, whose picture nobody looks at any more, is done learning."""
    return Phase("all", share, _together)


def _g1_alone(module: nn.Module) -> None:
    net = _staged(module)
    if net is not None:
        net.running = "g1"
        net.enhancers.requires_grad_(False)
        net.head.requires_grad_(False)


def _enhancers_alone(module: nn.Module) -> None:
    _together(module)
    net = _staged(module)
    if net is not None:
        net.running = "g2"
        net.g1.requires_grad_(False)


def _together(module: nn.Module) -> None:
    assert isinstance(module, Generator), type(module)
    module.running = "whole"
    module.requires_grad_(True)
    if module.coarse is not None:
        module.coarse.requires_grad_(False)


def _staged(module: nn.Module) -> Generator | None:
    """The generator, if it has parts that can learn apart."""
    assert isinstance(module, Generator), type(module)
    return module if module.coarse is not None else None


def fill_up(image: Tensor, multiple: int, least: int = 2) -> Tensor:
    """Reflect image (N, C, H, W) to the right and below until both sides are a multiple of ``multiple``.

    And until they are ``least`` multiples, as the lowest maps must be large enough to reflect and to take a norm over:
    what is shorter is reflected again and again. One formula for every size, so that one graph takes them all.
    """
    for axis in (2, 3):
        side = image.shape[axis]
        filled = torch.sym_max(side + -side % multiple, least * multiple)  # type: ignore[no-untyped-call]
        if isinstance(side, int) and side == filled:  # a side that is free in an exported graph is no int
            continue
        # a tensor, as the exporter can't divide by a number that is free
        longest = torch.sym_max(2 * (side - 1), 1)  # type: ignore[no-untyped-call]
        period = torch.full((1,), longest, dtype=torch.int64, device=image.device)
        there = torch.arange(filled, device=image.device) % period
        image = image.index_select(axis, torch.minimum(there, period - there))
    return image


def build_pix2pixhd(
    ngf: int,
    counts: tuple[int, int],
    *,
    width: int | None = None,
    blocks: str = "residual",
    enhancers: int = 1,
    downsamplings: int = 2,
    channels: int = 3,
    coarse: bool = False,
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
        coarse: Whether G1 below the enhancers gets a head of its own, to be trained alone.

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
    finest, lowest = cap(ngf >> enhancers, ngf)
    below = _head(lowest) if coarse and enhancers else None
    net = Generator(g1, stack, _head(finest), 2 ** (downsamplings + enhancers), below)
    initialize(net)
    return net


def initialize(net: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 0.02) (Radford et al. 2016, section 4)."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)


def branches(enhancers: int = 1) -> tuple[str, ...]:
    """Module paths of what runs side by side, each of which must have a say: G1 and each enhancer's front."""
    return ("g1", *(f"enhancers.{index}.front" for index in range(enhancers)))


def taps(enhancers: int = 1) -> tuple[str, ...]:
    """Module paths whose outputs are worth comparing: front, blocks and back of every generator."""
    units = ("g1", *(f"enhancers.{index}" for index in range(enhancers)))
    return tuple(f"{unit}.{part}" for unit in units for part in ("front", "blocks", "back"))


def _head(channels: int) -> nn.Module:
    return nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(channels, 3, 7))


def _conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    return (
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(inputs, outputs, kernel, bias=False),
        InstanceNorm(outputs),
    )
