"""A background remover for phones and pages, 0.43 M parameters: a thin U²-NetP that looks at 3/4 of the size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from compress.core.networks import network
from compress.kit.nets.blocks import resize_like
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

# Thinnest at full size, where a channel costs most; nowhere wider than U²-NetP, so that it can start from its weights
ROWS = mirrored(32, (8, 8, 16, 16, 16, 16))


class Tiny(U2Net):
    """A U²-Net between two resizings: time goes with the square of a side, a mask's detail only with the side.

    Keys of its state are those of U²-Net.

    Args:
        inside: Any U²-Net; its parts are taken over.
        scale: Of the sides it sees to the picture's, above 0, at most 1.
    """

    def __init__(self, inside: U2Net, scale: float) -> None:
        super(U2Net, self).__init__()
        self.scale = scale
        for name, part in inside.named_children():
            self.add_module(name, part)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to seven logits (N, 1, H, W): the fused one, then sides 1 (finest) to 6."""
        if self.scale == 1:
            return super().forward(image)
        seen = F.interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return tuple(resize_like(output, image) for output in super().forward(seen))


@network(
    task="saliency",
    size=320,
    stride=1,
    taps=STAGES,
    parameters=430_765,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None, scale: float = 0.75) -> Tiny:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first.

    Args:
        scale: Of the sides it computes at to the picture's.
    """
    return Tiny(build_u2net(ROWS, width, stages), scale)
