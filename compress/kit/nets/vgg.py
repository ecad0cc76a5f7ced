"""Feature networks whose weights the user brings: VGG-16, VGG-19 and AlexNet by torchvision's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError
from compress.kit.graph import load_state
from compress.kit.measure.losses import full
from compress.kit.nets.unet import VGG16

# Simonyan & Zisserman 2015, table 1, column E
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
_POOL = 0  # stands between the kernels of convolutions


@dataclass(frozen=True)
class Kind:
    """A published network up to its last convolution: kernel sides in order, 0 for a max-pooling.

    ``least``: pixels a side below which a map would vanish.
    """

    name: str
    kernels: tuple[int, ...]
    least: int


def _vgg(stages: Sequence[Sequence[int]]) -> tuple[int, ...]:
    kernels = [kernel for widths in stages for kernel in (*(3 for _ in widths), _POOL)]
    return tuple(kernels[:-1])


KINDS = (
    Kind("VGG-16", _vgg(VGG16), 16),
    Kind("VGG-19", _vgg(VGG19), 16),
    Kind("AlexNet", (11, _POOL, 5, _POOL, 3, 3, 3), 63),  # Krizhevsky 2014, as torchvision has it
)


class Features(nn.Module):
    """Convolutions and ReLUs of one kind, frozen; maps are read after the ReLUs asked for.

    Args:
        kind: Which network.
        shapes: Outputs and inputs of each convolution, in order.
    """

    def __init__(self, kind: Kind, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.kind = kind
        parts: list[nn.Module] = []
        left = list(shapes)
        large = kind.kernels[0] == 11
        for kernel in kind.kernels:
            if kernel == _POOL:
                parts.append(nn.MaxPool2d(3 if large else 2, stride=2))
                continue
            outputs, inputs = left.pop(0)
            stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
            parts += [nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding), nn.ReLU()]
        self.features = nn.Sequential(*parts)

    def forward(self, picture: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Map a picture (N, 3, H, W), already normalised, to the float32 maps of the layers ``wanted``, ascending.

        Layers count in torchvision's numbers. A picture too small for the network has its border repeated.
        """
        height, width = picture.shape[2:]
        missing = (max(self.kind.least - width, 0), max(self.kind.least - height, 0))
        found: list[Tensor] = []
        with torch.autocast(picture.device.type, enabled=False):
            features = F.pad(full(picture), (0, missing[0], 0, missing[1]), mode="replicate")
            for number, part in enumerate(self.features):
                if number > max(wanted):
                    break
                features = part(features)
                if number in wanted:
                    found.append(features)
        return found


def ends(kind: Kind) -> tuple[int, ...]:
    """Number of the last ReLU before each pooling and of the last of all: relu1_2, relu2_2, relu3_3, ... of VGG-16."""
    found = []
    number = -1
    for kernel, following in zip(kind.kernels, (*kind.kernels[1:], _POOL), strict=True):
        number += 1 if kernel == _POOL else 2
        if kernel != _POOL and following == _POOL:
            found.append(number)
    return tuple(found)


def starts(kind: Kind) -> tuple[int, ...]:
    """Number of the first ReLU after the image and after each pooling: relu1_1, relu2_1, ... of a VGG."""
    found = []
    number = -1
    for before, kernel in zip((_POOL, *kind.kernels), kind.kernels, strict=False):
        number += 1 if kernel == _POOL else 2
        if kernel != _POOL and before == _POOL:
            found.append(number)
    return tuple(found)


def relus(kind: Kind) -> tuple[int, ...]:
    """Number of every ReLU."""
    number, found = -1, []
    for kernel in kind.kernels:
        number += 1 if kernel == _POOL else 2
        if kernel != _POOL:
            found.append(number)
    return tuple(found)


def make_features(state: Mapping[str, Tensor], source: str, kinds: Sequence[str]) -> Features:
    """Build the network that a state dictionary belongs to, frozen, in eval mode; its classifier is left out.

    Widths are the state's own.

    Args:
        state: Named tensors, ``features.0.weight`` and so on.
        source: What to call them in a message.
        kinds: Names of the kinds that will do.

    Raises:
        ArtifactError: If they are of no such network.
    """
    given = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    for kind in KINDS:
        if kind.name in kinds and (shapes := _shapes(kind, given)):
            net = Features(kind, shapes)
            load_state(net.features, given)
            return net.eval().requires_grad_(False)
    found = ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "")
    raise ArtifactError(
        f"'{source}' holds no {' or '.join(kinds)}: found {len(state)} tensors {found}",
        hint="give the state dictionary of a torchvision network without batch norm",
    )


def _shapes(kind: Kind, state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Outputs and inputs of each convolution; empty where the tensors are not those of that kind."""
    shapes: list[tuple[int, int]] = []
    kernels = [kernel for kernel in kind.kernels if kernel != _POOL]
    numbers = [number - 1 for number in relus(kind)]
    if set(state) != {f"{number}.{part}" for number in numbers for part in ("weight", "bias")}:
        return []
    inputs = 3
    for number, kernel in zip(numbers, kernels, strict=True):
        shape = tuple(state[f"{number}.weight"].shape)
        if len(shape) != 4 or shape[1:] != (inputs, kernel, kernel):
            return []
        shapes.append((shape[0], inputs))
        inputs = shape[0]
    return shapes
