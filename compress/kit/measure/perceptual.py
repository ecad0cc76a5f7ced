"""How alike two pictures are to a network: a loss of features and LPIPS, with weights that the user brings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError
from compress.kit.graph import read_checkpoint
from compress.kit.lesson import Batch, Losses, LossOf, Outputs
from compress.kit.measure.losses import full
from compress.kit.measure.metrics import Metric
from compress.kit.nets.adversary import at_size_of
from compress.kit.nets.vgg import Features, ends, make_features, relus, starts

# of torchvision's weights, for values 0..1
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# the same for values -1..1, rounded as LPIPS was trained
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_FIVE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # weights of pix2pixHD's five layers


class Perceptual(nn.Module):
    """L1 between a feature network's maps of two pictures, 0..1.

    VGG-16: relu1_2, relu2_2, relu3_3, relu4_3, equally (Johnson et al. 2016, section 3.2, of their L2); VGG-19: the
    first ReLU of each of the five blocks, weighted 1/32 to 1 (Wang et al. 2018, its published code).
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        deep = features.kind.name == "VGG-19"
        self.layers = starts(features.kind) if deep else ends(features.kind)[:4]
        self.weights = _FIVE if deep else (1.0,) * 4

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """Map pictures (N, 3, H, W), 0..1, to a scalar: mean over N, C, h, w of each map; weighted sum over maps.

        No gradient into ``target``.
        """
        made, true = (self.features(_normalised(part, _MEAN, _STD), self.layers) for part in (picture, target.detach()))
        terms = [w * F.l1_loss(a, b) for w, a, b in zip(self.weights, made, true, strict=True)]
        return torch.stack(terms).sum()


def read_perceptual(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """Read a VGG-16 or VGG-19 from its weights file (torchvision's keys) as a loss of two pictures, on any device.

    Raises:
        ArtifactError: If the file holds anything else.
    """
    net = Perceptual(make_features(read_checkpoint(path), path.name, ("VGG-16", "VGG-19")))

    def loss(picture: Tensor, target: Tensor) -> Tensor:
        value: Tensor = net.to(picture.device)(picture, target)
        return value

    return loss


def read_perceptor(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Read a VGG from its weights file as what shows the maps that ``Perceptual`` compares, of pictures (N, 3, H, W).

    Raises:
        ArtifactError: If the file holds anything else.
    """
    net = Perceptual(make_features(read_checkpoint(path), path.name, ("VGG-16", "VGG-19")))

    def look(picture: Tensor) -> list[Tensor]:
        return list(net.to(picture.device).features(_normalised(picture, _MEAN, _STD), net.layers))

    return look


def also_perceptual(loss: LossOf, activate: Callable[[Tensor], Tensor], path: Path, weight: float) -> LossOf:
    """Add ``weight`` times the loss of features of the first output's picture to a loss, told as "perceptual".

    Args:
        loss: What there is already.
        activate: Makes a raw output a picture, 0..1.
        path: Weights, see ``read_perceptual``.
        weight: 0 or more.
    """
    apart = read_perceptual(path)

    def both(outputs: Outputs, batch: Batch) -> Losses:
        told = loss(outputs, batch)
        found = apart(activate(outputs[0]), at_size_of(outputs[0], batch)["target"])
        return {**told, "loss": told["loss"] + weight * found, "perceptual": found.detach()}

    return both


class Lpips(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al. 2018, section 3, equation 1).

    Args:
        features: VGG-16, read where each block ends, or AlexNet, read after each of its five ReLUs.
        weights: Of the channels of each layer, (C,) each.
    """

    def __init__(self, features: Features, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.features = features
        self.layers = relus(features.kind) if features.kind.name == "AlexNet" else ends(features.kind)
        for number, weight in enumerate(weights):
            self.register_buffer(f"lin{number}", weight)

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """Map pictures (N, 3, H, W), 0..1, to distances (N,): 0 for equal ones."""
        one, two = (
            self.features(_normalised(2 * full(part) - 1, _SHIFT, _SCALE), self.layers) for part in (picture, target)
        )
        total = torch.zeros(len(picture), device=picture.device)
        for number, (a, b) in enumerate(zip(one, two, strict=True)):
            weight: Tensor = self.get_buffer(f"lin{number}")
            apart = (_unit(a) - _unit(b)).square() * weight[:, None, None]
            total = total + apart.sum(1).mean((1, 2))
        return total


def read_lpips(weights: Path, backbone: Path | None = None) -> Lpips:
    """Read LPIPS from the published files.

    Args:
        weights: ``lin0.model.1.weight`` to ``lin4.model.1.weight``, (1, C, 1, 1) each; with the backbone beside them
            where no other file is given.
        backbone: VGG-16 or AlexNet by torchvision's keys.

    Raises:
        ArtifactError: If a file holds something else, or the two do not belong together.
    """
    state = read_checkpoint(weights)
    lins = [state.get(f"lin{number}.model.1.weight") for number in range(5)]
    if any(lin is None for lin in lins):
        found = ", ".join(list(state)[:3])
        raise ArtifactError(
            f"'{weights.name}' holds no LPIPS weights: found {found}, wanted lin0.model.1.weight to lin4...",
            hint="give the weights of lpips v0.1, such as vgg.pth or alex.pth",
        )
    source = backbone or weights
    other = state if backbone is None else read_checkpoint(backbone)
    # the whole of an lpips.LPIPS numbers its layers as torchvision does
    named = {re.sub(r"^net\.slice\d\.(\d+)\.", r"features.\1.", key): value for key, value in other.items()}
    if not any(key.startswith("features.") for key in named):
        raise ArtifactError(
            f"'{source.name}' holds LPIPS weights without the network they belong to",
            hint="name its file too: --lpips-backbone vgg16-397923af.pth",
        )
    features = make_features(named, source.name, ("VGG-16", "AlexNet"))
    flat = [full(lin).flatten() for lin in lins if lin is not None]
    net = Lpips(features, flat)
    wanted = [features.features[number - 1].out_channels for number in net.layers]
    if (found_channels := [len(lin) for lin in flat]) != wanted:
        raise ArtifactError(
            f"'{weights.name}' has weights for {found_channels} channels, the {features.kind.name} has {wanted}",
            hint="vgg.pth belongs to a VGG-16, alex.pth to an AlexNet",
        )
    return net.eval()


class LpipsExtra:
    """Mean LPIPS over images, each at its target's size."""

    metric = Metric("lpips", "1", "lower", "learned perceptual distance, mean over images")

    def __init__(self, weights: Path, backbone: Path | None = None) -> None:
        self._net = read_lpips(weights, backbone)
        self._found: list[float] = []

    def add(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
        """Take one image: prediction (3, H, W), 0..1; target (H, W, 3), 0..255, of the same sides."""
        picture = torch.from_numpy(np.ascontiguousarray(prediction))[None]
        truth = torch.from_numpy(np.moveaxis(target, -1, 0).astype(np.float32) / 255)[None]
        with torch.no_grad():
            self._found.append(float(self._net(picture, truth)))

    def result(self) -> float:
        """Return the mean."""
        assert self._found, "no image was taken"
        return sum(self._found) / len(self._found)


def _normalised(picture: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shift, scale = (torch.tensor(values, device=picture.device)[:, None, None] for values in (mean, std))
    return (full(picture) - shift) / scale


def _unit(features: Tensor) -> Tensor:
    """Divide each pixel's features by their length, as the published code does."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
