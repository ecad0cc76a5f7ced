"""Colorization by jointly learned global and local features (Iizuka et al. 2016, "Let there be Color!")."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from compress.kit.nets.colorizer import Decoder, beside, convs, initialize

SIDE = 224  # pixels a side of what the global features see
# Table 1: width and stride of the 3x3 convolutions
LOW = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1))
MIDDLE = ((512, 1), (256, 1))
GLOBAL = ((512, 2), (512, 1), (512, 2), (512, 1))
DENSE = (1024, 512, 256)
FUSION = 256
DECODER = (128, 64, 64, 32)


class Iizuka(nn.Module):
    """Table 1 of the paper, with batch norm in the convolutions, for images of any size.

    Left out is the classification network: it reads the second dense layer, and needs labels of scenes. The head is
    raw for the task's tanh where the paper has a sigmoid over ab laid in 0..1.

    Args:
        width: Cap of every channel count, None for none.
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__()

        def cap(count: int) -> int:
            return count if width is None else min(count, width)

        def rows(table: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
            return [(cap(count), stride) for count, stride in table]

        low, deep = cap(LOW[-1][0]), cap(GLOBAL[-1][0])
        self.low = convs(1, rows(LOW), norm=True)
        self.middle = convs(low, rows(MIDDLE), norm=True)
        self.globals = convs(low, rows(GLOBAL), norm=True)
        dense: list[nn.Module] = []
        source = deep * (SIDE // 32) ** 2
        for count in map(cap, DENSE):
            dense += [nn.Linear(source, count), nn.ReLU()]
            source = count
        self.dense = nn.Sequential(*dense)
        self.fusion = convs(cap(MIDDLE[-1][0]) + source, ((cap(FUSION), 1),), kernel=1, norm=True)
        self.decoder = Decoder(cap(FUSION), [cap(count) for count in DECODER], norm=True)
        initialize(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 1, H, W) to (raw ab (N, 2, H, W), features at 1/4 of the sides, fused features at 1/8).

        The global features see the image at 224 x 224. An image of that size passes the low-level network once where
        it is trained; an exported graph, whose sides may be free, passes it twice.
        """
        low = self.low(image)
        if self.training and tuple(image.shape[2:]) == (SIDE, SIDE):
            seen = low
        else:
            seen = self.low(F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False))
        vector = cast("Tensor", self.dense(self.globals(seen).flatten(1)))
        fused = self.fusion(beside(self.middle(low), vector))
        return (*self.decoder(fused, image), fused)
