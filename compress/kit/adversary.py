"""The other half of a GAN: discriminators of patches at three scales, and what both sides minimise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.kit.losses import full
from compress.kit.pix2pixhd import InstanceNorm

Verdict = Sequence[Tensor]  # features of one discriminator's layers, the last one its raw opinion of each patch
Kind = Literal["lsgan", "hinge"]


class Patches(nn.Module):
    """Judges every 70 x 70 patch on its own (Isola et al. 2017, section 3.2.2), every layer's features exposed.

    Args:
        channels: Of what it sees: the input and the picture, concatenated.
        ndf: Channels of its first layer; each next one has twice as many, 8 ndf at most.
    """

    def __init__(self, channels: int, ndf: int = 64) -> None:
        super().__init__()
        widths = (ndf, 2 * ndf, 4 * ndf, 8 * ndf)
        # pix2pixHD's padding of 2 keeps a verdict even where the quarter of a small picture is left
        layers = [nn.Sequential(nn.Conv2d(channels, ndf, 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for source, width, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            conv = nn.Conv2d(source, width, 4, stride=stride, padding=2, bias=False)
            layers.append(nn.Sequential(conv, InstanceNorm(width), nn.LeakyReLU(0.2)))
        layers.append(nn.Sequential(nn.Conv2d(widths[-1], 1, 4, padding=2)))
        self.layers = nn.ModuleList(layers)

    def forward(self, pair: Tensor) -> tuple[Tensor, ...]:
        """Map a pair (N, C, H, W) to the features of the five layers; the last is (N, 1, h, w)."""
        features = []
        for layer in self.layers:
            pair = layer(pair)
            features.append(pair)
        return tuple(features)


class Scales(nn.Module):
    """Discriminators of one structure at 1, 1/2, 1/4, ... of the size (Wang et al. 2018, section 3.2)."""

    def __init__(self, channels: int, ndf: int = 64, scales: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches(channels, ndf) for _ in range(scales))

    def forward(self, pair: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Map a pair (N, C, H, W) to each discriminator's verdict, the finest first."""
        verdicts = []
        for number, judge in enumerate(self.scales):
            if number:
                pair = F.avg_pool2d(pair, 3, stride=2, padding=1, count_include_pad=False)
            verdicts.append(judge(pair))
        return tuple(verdicts)


def judging(real: Sequence[Verdict], fake: Sequence[Verdict], kind: Kind) -> Tensor:
    """What the discriminators minimise: sum over scales of the mean over patches of N, h, w.

    "lsgan": half of (real - 1)^2 + fake^2 (Mao et al. 2017, equation 9); "hinge": max(0, 1 - real) +
    max(0, 1 + fake) (Lim & Ye 2017, section 3).
    """
    return torch.stack([_apart(full(r[-1]), full(f[-1]), kind) for r, f in zip(real, fake, strict=True)]).sum()


def _apart(real: Tensor, fake: Tensor, kind: Kind) -> Tensor:
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def fooling(fake: Sequence[Verdict], kind: Kind) -> Tensor:
    """What a generator minimises: (fake - 1)^2 for "lsgan", -fake for "hinge"; reduced as in ``judging``."""
    opinions = [full(verdict[-1]) for verdict in fake]
    return torch.stack([-o.mean() if kind == "hinge" else (o - 1).square().mean() for o in opinions]).sum()


def feature_matching(real: Sequence[Verdict], fake: Sequence[Verdict]) -> Tensor:
    """L1 between a discriminator's features of a real and a made picture (Wang et al. 2018, equation 4).

    Mean over N, C, h, w of each layer, the raw opinion left out; sum over layers and scales. No gradient into ``real``.
    """
    layers = [pair for r, f in zip(real, fake, strict=True) for pair in zip(r[:-1], f[:-1], strict=True)]
    return torch.stack([F.l1_loss(full(f), full(r).detach()) for r, f in layers]).sum()
