"""Small baseline for segmentation: inverted residuals and an LR-ASPP head (S4; Howard et al. 2019)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from compress.core.networks import network
from compress.kit.nets.blocks import resize_like

STEM = 16
# Expansion, channels, stride of the first and number of inverted residuals: Sandler et al. 2018, table 2, thinner
FINE = ((3, 24, 2, 2), (3, 40, 2, 3))  # down to 1/8 of the image's sides
COARSE = ((6, 80, 2, 3), (6, 112, 1, 2))  # down to 1/16
HEAD = 128


def conv(source: int, width: int, kernel: int, stride: int = 1, *, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution and batch norm, and ReLU unless told otherwise; odd sides are rounded up where it strides."""
    parts: list[nn.Module] = [
        nn.Conv2d(source, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
    ]
    return nn.Sequential(*parts, nn.ReLU()) if relu else nn.Sequential(*parts)


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel by a 3x3, narrow by a 1x1; added to its input where the shapes allow."""

    def __init__(self, source: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = source * expansion
        self.residual = stride == 1 and source == width
        self.body = nn.Sequential(
            conv(source, inner, 1), conv(inner, inner, 3, stride, groups=inner), conv(inner, width, 1, relu=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, source, H, W) to (N, width, ceil(H / stride), ceil(W / stride))."""
        changed = cast("Tensor", self.body(features))
        return features + changed if self.residual else changed


def stages(source: int, rows: tuple[tuple[int, int, int, int], ...], limit: int) -> nn.Sequential:
    """Inverted residuals of a table, channels capped at ``limit``."""
    parts: list[nn.Module] = []
    for expansion, channels, stride, count in rows:
        width = min(channels, limit)
        for number in range(count):
            parts.append(InvertedResidual(source, width, stride if number == 0 else 1, expansion))
            source = width
    return nn.Sequential(*parts)


class Lraspp(nn.Module):
    """Lite R-ASPP: features at 1/16 weighed by a global view, joined with those at 1/8 (section 6.4)."""

    def __init__(self, classes: int, limit: int) -> None:
        super().__init__()
        stem, fine, coarse, head = (min(n, limit) for n in (STEM, FINE[-1][1], COARSE[-1][1], HEAD))
        self.stem = conv(3, stem, 3, 2)
        self.fine = stages(stem, FINE, limit)
        self.coarse = stages(fine, COARSE, limit)
        self.branch = conv(coarse, head, 1)
        self.gate = nn.Sequential(nn.Conv2d(coarse, head, 1), nn.Sigmoid())
        self.coarse_head = nn.Conv2d(head, classes, 1)
        self.fine_head = nn.Conv2d(fine, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to logits (N, classes, H, W)."""
        fine = self.fine(self.stem(image))
        coarse = self.coarse(fine)
        weighed = self.branch(coarse) * self.gate(coarse.mean((2, 3), keepdim=True))
        logits = self.fine_head(fine) + resize_like(self.coarse_head(weighed), fine)
        return (resize_like(logits, image),)


@network(
    task="segmentation",
    size=256,
    stride=1,
    taps=("fine", "coarse", "branch"),
    parameters=524_818,
    branches=("gate", "coarse_head", "fine_head"),
)
def build(width: int | None = None, classes: int = 21) -> Lraspp:
    """Build it: image (N, 3, H, W) to logits (N, classes, H, W)."""
    return Lraspp(classes, width or max(STEM, HEAD))
