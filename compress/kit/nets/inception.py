"""Inception-ResNet-v2 under timm's parameter names (Szegedy et al. 2017), and how it looks at grey photos."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError
from compress.kit.graph import load_state, read_checkpoint
from compress.kit.lab import lightness_tensor

SIDE = 299  # pixels a side of the pictures it was made for
_EPS = 1e-3  # of its batch norms

Sides = int | tuple[int, int]


class InceptionResNetV2(nn.Module):
    """The classifier of Szegedy et al. 2017, "Inception-v4", figures 3 and 15 to 19 with the counts of its release.

    Args:
        outputs: 1000 classes, or 1001 with the background before them, as TensorFlow's own weights have.
        width: Cap of every channel count, None for none.
    """

    def __init__(self, outputs: int = 1001, width: int | None = None) -> None:
        super().__init__()
        conv = _Convs(width)
        self.conv2d_1a = conv(3, 32, 3, stride=2)
        self.conv2d_2a = conv(32, 32, 3)
        self.conv2d_2b = conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = conv(64, 80, 1)
        self.conv2d_4a = conv(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = Mixed(
            conv(192, 96, 1),
            nn.Sequential(conv(192, 48, 1), conv(48, 64, 5, padding=2)),
            nn.Sequential(conv(192, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, padding=1)),
            nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), conv(192, 64, 1)),
        )
        trunk = conv.sum(96, 64, 96, 64)
        self.repeat = nn.Sequential(*(_block35(conv, trunk) for _ in range(10)))
        self.mixed_6a = Mixed(
            conv.from_trunk(trunk, 384, 3, stride=2),
            nn.Sequential(conv.from_trunk(trunk, 256, 1), conv(256, 256, 3, padding=1), conv(256, 384, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        trunk += conv.sum(384, 384)
        self.repeat_1 = nn.Sequential(*(_block17(conv, trunk) for _ in range(20)))
        self.mixed_7a = Mixed(
            nn.Sequential(conv.from_trunk(trunk, 256, 1), conv(256, 384, 3, stride=2)),
            nn.Sequential(conv.from_trunk(trunk, 256, 1), conv(256, 288, 3, stride=2)),
            nn.Sequential(conv.from_trunk(trunk, 256, 1), conv(256, 288, 3, padding=1), conv(288, 320, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        trunk += conv.sum(384, 288, 320)
        self.repeat_2 = nn.Sequential(*(_block8(conv, trunk) for _ in range(9)))
        self.block8 = _block8(conv, trunk, last=True)
        self.conv2d_7b = conv.from_trunk(trunk, 1536, 1)
        self.classif = nn.Linear(conv.cap(1536), outputs)

    def forward(self, picture: Tensor) -> Tensor:
        """Map pictures (N, 3, H, W) in -1..1, sides 75 or more, to logits (N, outputs)."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(picture)))
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))
        x = self.repeat(self.mixed_5b(self.maxpool_5a(x)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        return cast("Tensor", self.classif(self.conv2d_7b(x).mean((2, 3))))


class Mixed(nn.Module):
    """Branches beside each other: each maps (N, in, H, W) to maps of one size, which are joined channel by channel."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, features: Tensor) -> Tensor:
        """Join what the branches make of features."""
        return torch.cat([branch(features) for branch in self.children()], 1)


class Block(nn.Module):
    """x + scale * conv(branches of x), then ReLU unless it is the last (section 3.3): (N, C, H, W) to that shape."""

    def __init__(self, trunk: int, joined: int, scale: float, branches: tuple[nn.Module, ...], last: bool) -> None:
        super().__init__()
        self.scale, self.last, self.count = scale, last, len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.conv2d = nn.Conv2d(joined, trunk, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Add what the branches find."""
        found = [self.get_submodule(f"branch{number}")(features) for number in range(self.count)]
        total: Tensor = features + self.scale * self.conv2d(torch.cat(found, 1))
        return total if self.last else F.relu(total)


class _Convs:
    """Makes convolution + batch norm + ReLU under timm's names, with every channel count capped."""

    def __init__(self, width: int | None) -> None:
        self.width = width

    def cap(self, channels: int) -> int:
        return channels if self.width is None else min(channels, self.width)

    def sum(self, *channels: int) -> int:
        return sum(map(self.cap, channels))

    def __call__(self, source: int, channels: int, kernel: Sides, *, stride: int = 1, padding: Sides = 0) -> nn.Module:
        """Source is a count of the published table, of three colours or of another convolution's channels."""
        inputs = source if source == 3 else self.cap(source)
        return self.from_trunk(inputs, channels, kernel, stride=stride, padding=padding)

    def from_trunk(
        self, inputs: int, channels: int, kernel: Sides, *, stride: int = 1, padding: Sides = 0
    ) -> nn.Module:
        """Inputs is what really comes in: the trunk is a sum of capped branches."""
        outputs = self.cap(channels)
        parts: dict[str, nn.Module] = {
            "conv": nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            "bn": nn.BatchNorm2d(outputs, eps=_EPS),
            "act": nn.ReLU(),
        }
        return nn.Sequential(OrderedDict(parts))


def _block35(conv: _Convs, trunk: int) -> Block:
    branches = (
        conv.from_trunk(trunk, 32, 1),
        nn.Sequential(conv.from_trunk(trunk, 32, 1), conv(32, 32, 3, padding=1)),
        nn.Sequential(conv.from_trunk(trunk, 32, 1), conv(32, 48, 3, padding=1), conv(48, 64, 3, padding=1)),
    )
    return Block(trunk, conv.sum(32, 32, 64), 0.17, branches, last=False)


def _block17(conv: _Convs, trunk: int) -> Block:
    across, down = conv(128, 160, (1, 7), padding=(0, 3)), conv(160, 192, (7, 1), padding=(3, 0))
    branches = (conv.from_trunk(trunk, 192, 1), nn.Sequential(conv.from_trunk(trunk, 128, 1), across, down))
    return Block(trunk, conv.sum(192, 192), 0.1, branches, last=False)


def _block8(conv: _Convs, trunk: int, *, last: bool = False) -> Block:
    across, down = conv(192, 224, (1, 3), padding=(0, 1)), conv(224, 256, (3, 1), padding=(1, 0))
    branches = (conv.from_trunk(trunk, 192, 1), nn.Sequential(conv.from_trunk(trunk, 192, 1), across, down))
    return Block(trunk, conv.sum(192, 256), 1.0 if last else 0.2, branches, last)


class GreyEye(nn.Module):
    """A frozen Inception-ResNet-v2 that is shown a lightness thrice: its weights never move, its norms keep still."""

    def __init__(self, outputs: int = 1001, width: int | None = None) -> None:
        super().__init__()
        self.net = InceptionResNetV2(outputs, width)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> GreyEye:  # noqa: ARG002
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """Map image (N, 1, H, W), L* / 50 - 1 in -1..1, to logits (N, outputs): three copies at 299 x 299."""
        grown = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return cast("Tensor", self.net(torch.cat((grown, grown, grown), 1)))

    @property
    def outputs(self) -> int:
        """Numbers per photo."""
        return self.net.classif.out_features


def embed(eye: GreyEye, photos: Tensor) -> Tensor:
    """Give the embeddings of photos, uint8 sRGB (N, 3, H, W): (N, F) float32, what a colorizer sees of each.

    The photos' lightness goes in as a colorizer's own input does; bring them to that input's size and white borders
    first.
    """
    assert photos.dtype == torch.uint8, f"photos of {photos.dtype}, wanted uint8"
    with torch.no_grad():
        return cast("Tensor", eye.eval()(lightness_tensor(photos) / 127.5 - 1.0)).float()


def load_inception(path: str | Path, outputs: int | None = None, *, width: int | None = None) -> GreyEye:
    """Build an eye and give it the weights of a file in timm's key names.

    outputs: numbers per photo that are wanted; None takes as many as the file has.

    Raises:
        ArtifactError: As ``fill``.
    """
    state = read_checkpoint(path)
    eye = GreyEye(outputs or _outputs_of(state, path), width)
    fill(eye, path, state)
    return eye


def fill(eye: GreyEye, path: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Load the weights of a file into an eye, all or nothing.

    Raises:
        ArtifactError: If the file holds no weights or another network's (every differing key is named), or gives
            another number of outputs.
    """
    state = read_checkpoint(path) if state is None else state
    found = _outputs_of(state, path)
    if found != eye.outputs:
        raise ArtifactError(
            f"'{Path(path).name}' gives {found} numbers a photo, the network takes {eye.outputs}",
            hint=f"build it with --outputs {found}",
        )
    try:
        load_state(eye.net, state)
    except ArtifactError as error:
        raise ArtifactError(
            f"'{Path(path).name}': {error.what}", hint="give Inception-ResNet-v2's weights in timm's key names"
        ) from error


def _outputs_of(state: dict[str, Any], path: str | Path) -> int:
    weight = state.get("classif.weight")
    if weight is None or weight.ndim != 2:
        some = ", ".join(list(state)[:3])
        raise ArtifactError(
            f"'{Path(path).name}' holds no Inception-ResNet-v2: found {some}, wanted conv2d_1a.conv.weight to "
            "classif.weight",
            hint="give its weights in timm's key names",
        )
    return int(weight.shape[0])
