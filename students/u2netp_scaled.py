"""U²-NetP that computes at 3/4 of the picture's size: what small background removers are pruned from."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.core.networks import network
from compress.kit.nets.blocks import resize_like
from compress.kit.nets.u2net import BRANCHES, STAGES, Rows, U2Net, build_u2net, mirrored

_SHARES = 16
ROWS = mirrored(64, (16, 16, 16, 16, 16, 16))


class Scaled(U2Net):
    """A U²-Net between two resizings: time goes with the square of a side, a mask's detail only with the side.

    Keys of its state are those of U²-Net.

    Args:
        inside: Any U²-Net; its parts are taken over.
        scale: Of the sides it sees to the picture's, to the next 1/16.

    Raises:
        UsageError: If there is no such scale.
    """

    def __init__(self, inside: U2Net, scale: float) -> None:
        super(U2Net, self).__init__()
        if not 1 <= round(scale * _SHARES) <= _SHARES:
            raise UsageError(f"scale is {scale:g}, wanted 1/{_SHARES} to 1", hint="give --scale 0.75")
        self._share = round(scale * _SHARES)
        for name, part in inside.named_children():
            self.add_module(name, part)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to seven logits (N, 1, H, W): the fused one, then sides 1 (finest) to 6."""
        if self._share == _SHARES:
            return super().forward(image)
        sides = [-(-side * self._share // _SHARES) for side in image.shape[2:]]  # rounded up: never nothing
        seen = F.interpolate(image, size=sides, mode="bilinear", align_corners=False)
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
