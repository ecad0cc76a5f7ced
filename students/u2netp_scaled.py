"""U²-NetP that computes at 3/4 of the picture's size: what small background removers are pruned from."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from compress.core.networks import network
from compress.kit.nets.blocks import resize_like
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

ROWS = mirrored(64, (16, 16, 16, 16, 16, 16))


class Scaled(U2Net):
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
    parameters=1_131_181,
    branches=BRANCHES,
)
def build(width: int | None = None, stages: Rows | None = None, scale: float = 0.75) -> Scaled:
    """Build it: image (N, 3, H, W) to seven logits (N, 1, H, W), the fused one first.

    Args:
        scale: Of the sides it computes at to the picture's.
    """
    return Scaled(build_u2net(ROWS, width, stages), scale)
