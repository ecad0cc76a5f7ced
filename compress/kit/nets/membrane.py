"""The membrane generator, a U-Net with leaky ReLU (S6), and the discriminator that learns to tell a mask's error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress.kit.nets.unet import UNet

SLOPE = 0.2  # of leaky ReLU below 0 (Radford et al. 2016, section 3)


class LeakyUNet(UNet):
    """U-Net for grey pictures of any size, with batch norm and leaky ReLU after every 3x3 convolution.

    Nothing follows the head. Without the norms, an overlap that is minimised directly drives the tanh into its flat
    ends at the start, and every pixel stays in the class that most are of.

    Args:
        widths: Channels of each level, the last the bottleneck's.
        outputs: Channels of what comes out.
    """

    def __init__(self, widths: Sequence[int], outputs: int = 1) -> None:
        super().__init__(widths, outputs, norm=True)
        for block in [part for part in self.modules() if isinstance(part, nn.Sequential)]:
            for name, part in list(block.named_children()):
                if isinstance(part, nn.ReLU):
                    block.set_submodule(name, nn.LeakyReLU(SLOPE))
        self.get_submodule("down1").set_submodule("0", nn.Conv2d(1, widths[0], 3, padding=1))


class ErrorJudge(nn.Module):
    """S6's discriminator: a U-Net, encoding convolutions, dense layers; it tells how wrong masks of a photo are.

    The U-Net reads the photo. Its maps meet a mask as they are and times the mask, as an intersection is a product;
    encoding convolutions follow, and the dense layers get the means over H and W of all these maps, as a quality
    function is made of sums over pixels. So pictures of any size pass. A U-Net that read the mask too would tell errors
    as well, but a generator would find ways around it that change no error.

    Args:
        widths: Channels of the U-Net's levels.
        maps: Channels that the U-Net hands on.
        encoding: Channels of the encoding convolutions, each of stride 2.
        dense: Channels of the hidden dense layer.
        spectral_norm: Divide every weight by its largest singular value (Miyato et al. 2018).
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96),
        maps: int = 16,
        encoding: Sequence[int] = (32, 64, 64),
        dense: int = 64,
        *,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.unet = LeakyUNet(widths, maps)
        self.leak = nn.LeakyReLU(SLOPE)
        sources = (2 * maps + 1, *encoding)
        self.encoding = nn.ModuleList(
            nn.Sequential(nn.Conv2d(source, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE))
            for source, width in zip(sources, encoding, strict=False)
        )
        self.dense = nn.Sequential(nn.Linear(sum(sources), dense), nn.LeakyReLU(SLOPE), nn.Linear(dense, 1))
        if spectral_norm:
            for part in list(self.modules()):
                if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                    parametrizations.spectral_norm(part)

    def forward(self, photo: Tensor, masks: Tensor) -> Tensor:
        """Predict the errors (N, K), between 0 and 1, of K masks a photo.

        photo: (N, 1, H, W) after the input spec; masks: (N, K, H, W), values -1..1.
        """
        seen = self.leak(self.unet(photo)[0])
        count, size = masks.shape[1], masks.shape[2:]
        seen = seen[:, None].expand(-1, count, -1, -1, -1).reshape(-1, seen.shape[1], *size)
        mask = masks.reshape(-1, 1, *size)
        features = torch.cat((seen, seen * mask, mask), 1)
        means = [features.mean(dim=(2, 3))]
        for layer in self.encoding:
            features = layer(features)
            means.append(features.mean(dim=(2, 3)))
        return torch.sigmoid(self.dense(torch.cat(means, 1))).reshape(-1, count)


def skips_of(levels: int) -> tuple[str, ...]:
    """Branches of a U-Net of so many widths: every skip, and the bottleneck."""
    return (*(f"up{level}:1" for level in range(levels - 1, 0, -1)), "bottom")
