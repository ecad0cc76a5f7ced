"""The colorizer: encoder, fusion with a vector that says what a photo shows, decoder (S7; Baldassarre et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.nets.inception import GreyEye

Rows = Sequence[tuple[int, int]]  # width and stride of 3x3 convolutions
Kind = Literal["small", "inception"]


@dataclass(frozen=True)
class Table:
    """Widths of a colorizer.

    Args:
        encoder: Width and stride of its 3x3 convolutions; three of them halve.
        fusion: Width of the 1x1 convolution over features and vector.
        decoder: Widths at 1/8, twice 1/4, and 1/2 of the image's sides.
        features: Widths of the small feature network, each at half the sides of the one before.
    """

    encoder: Rows
    fusion: int
    decoder: tuple[int, int, int, int]
    features: tuple[int, ...]

    def capped(self, width: int | None) -> Table:
        """The table with every width at ``width`` at most."""
        most = width or max(self.fusion, *self.decoder, *self.features, *(count for count, _ in self.encoder))
        a, b, c, d = (min(count, most) for count in self.decoder)
        return Table(
            tuple((min(count, most), stride) for count, stride in self.encoder),
            min(self.fusion, most),
            (a, b, c, d),
            tuple(min(count, most) for count in self.features),
        )


class Colorizer(nn.Module):
    """Lightness in, a* and b* out, for images of any size.

    Args:
        table: Its widths.
        features: Maps image (N, 1, H, W) to a vector (N, ``outputs``) that says what it shows; a ``GreyEye`` is
            frozen, anything else is trained jointly.
        outputs: Numbers in that vector.
        norm: Put batch norm before every ReLU.
    """

    def __init__(self, table: Table, features: nn.Module, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        self.outputs = outputs
        self.encoder = convs(1, table.encoder, norm=norm)
        self.fusion = convs(table.encoder[-1][0] + outputs, ((table.fusion, 1),), kernel=1, norm=norm)
        self.decoder = Decoder(table.fusion, table.decoder, norm=norm)
        initialize(self)
        self.features = features

    def forward(self, image: Tensor, embedding: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map image (N, 1, H, W) to (raw ab (N, 2, H, W), features at 1/4 of the sides, fused features at 1/8).

        The raw ab is computed at half the sides, each value then repeated 2 x 2.
        embedding: (N, outputs), what a frozen feature network says of the photos; it is not run then. One that is
        trained jointly is always run, and the embedding not looked at.

        Raises:
            UsageError: If the embedding has another number of outputs.
        """
        if embedding is None or not isinstance(self.features, GreyEye):
            vector = cast("Tensor", self.features(image))
        else:
            vector = self._known(embedding)
        fused = self.fusion(beside(self.encoder(image), vector))
        return (*self.decoder(fused, image), fused)

    def _known(self, embedding: Tensor) -> Tensor:
        if embedding.shape[1] != self.outputs:
            raise UsageError(
                f"the data's embeddings have {embedding.shape[1]} numbers a photo, the network takes {self.outputs}",
                hint=f"give --outputs {embedding.shape[1]}, or pack the photos again with this network's weights",
            )
        return embedding


class Decoder(nn.Module):
    """Features at 1/8 of an image's sides to its raw ab: 3x3 convolutions, sides doubled by repetition thrice."""

    def __init__(self, source: int, widths: Sequence[int], *, norm: bool = False) -> None:
        super().__init__()
        eighth, *quarter, half = widths
        self.at8 = convs(source, ((eighth, 1),), norm=norm)
        self.at4 = convs(eighth, [(width, 1) for width in quarter], norm=norm)
        self.at2 = convs(quarter[-1], ((half, 1),), norm=norm)
        self.head = nn.Conv2d(half, 2, 3, padding=1)

    def forward(self, features: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, C, ceil(H / 8), ceil(W / 8)) to raw ab (N, 2, H, W) and the features at 1/4.

        image: (N, any, H, W), whose size alone counts.
        """
        full = image.shape[2], image.shape[3]
        half = (full[0] + 1) // 2, (full[1] + 1) // 2
        quarter = (half[0] + 1) // 2, (half[1] + 1) // 2
        middle = self.at4(doubled(self.at8(features), quarter))
        raw = self.head(self.at2(doubled(middle, half)))
        return doubled(raw, full), middle


class SmallFeatures(nn.Module):
    """Convolutions that halve, their mean over the picture, and a linear layer: what Inception's place needs least."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.trunk = convs(1, [(width, 2) for width in widths], norm=True)
        self.head = nn.Linear(widths[-1], outputs)
        initialize(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map image (N, 1, H, W), sides of any length, to a vector (N, outputs)."""
        return cast("Tensor", self.head(self.trunk(image).mean((2, 3))))


def build_colorizer(
    table: Table, features: str, outputs: int, *, width: int | None = None, norm: bool = False
) -> Colorizer:
    """Build a colorizer from its table.

    Args:
        table: Its widths before they are capped.
        features: "small", trained jointly, or "inception", frozen.
        outputs: Numbers in the vector of features.
        width: Cap of every channel count, None for none; of the small network's outputs too.
        norm: Put batch norm before every ReLU.

    Raises:
        UsageError: For other features, or less than one output.
    """
    if outputs < 1:
        raise UsageError(f"a vector of {outputs} features can't be, wanted 1 or more", hint="give --outputs 1001")
    capped = table.capped(width)
    if features == "inception":
        return Colorizer(capped, GreyEye(outputs, width), outputs, norm=norm)
    if features == "small":
        outputs = min(outputs, width or outputs)
        return Colorizer(capped, SmallFeatures(capped.features, outputs), outputs, norm=norm)
    raise UsageError(f"no features called '{features}', wanted small or inception", hint="give --features small")


def convs(source: int, rows: Rows, *, kernel: int = 3, norm: bool = False) -> nn.Sequential:
    """Convolutions of a table, each with ReLU after it (and batch norm before that); odd sides are halved upwards."""
    parts: list[nn.Module] = []
    for width, stride in rows:
        parts.append(nn.Conv2d(source, width, kernel, stride, padding=kernel // 2, bias=not norm))
        parts += [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
        source = width
    return nn.Sequential(*parts)


def beside(features: Tensor, vector: Tensor) -> Tensor:
    """Lay a vector (N, F) beside every pixel of features (N, C, h, w): (N, C + F, h, w)."""
    spread = vector.to(features.dtype)[:, :, None, None].expand(-1, -1, features.shape[2], features.shape[3])
    return torch.cat((features, spread), 1)


def doubled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat every value 2 x 2 and cut to ``size``: a side that was rounded up when halved comes back."""
    grown = F.interpolate(features, scale_factor=2.0, mode="nearest")
    return grown[:, :, : size[0], : size[1]]


def initialize(net: nn.Module) -> None:
    """Draw weights of variance 2 / fan-in, biases 0; those that end on ab small, so that it starts grey.

    A convolution without a bias has a batch norm behind it, which takes any scale out again: it keeps torch's own.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    for part in net.modules():
        if isinstance(part, Decoder):
            nn.init.normal_(part.head.weight, std=0.01)
