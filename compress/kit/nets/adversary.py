"""The other half of a GAN: discriminators of patches at several scales, and what both sides minimise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from compress.core.errors import UsageError
from compress.kit.lesson import Batch, Cast, Losses, LossOf, Outputs, Rival, Subject
from compress.kit.measure.losses import full
from compress.kit.nets.pix2pixhd import InstanceNorm, initialize

Verdict = Sequence[Tensor]  # features of one discriminator's layers, the last one its raw opinion of each patch
Kind = Literal["lsgan", "hinge", "vanilla"]
NAME = "discriminator"
MAX_SCALES = 5


class Patches(nn.Module):
    """Judges every 70 x 70 patch on its own (Isola et al. 2017, section 3.2.2), every layer's features exposed.

    Args:
        channels: Of what it sees: the input and the picture, concatenated, or a picture alone.
        ndf: Channels of its first layer; each next one has twice as many, 8 ndf at most.
        scaled: Whether its norms have a learned scale, as batch norm has; pix2pixHD's and CycleGAN's have none.
        spectral: Divide every convolution by its largest singular value (Miyato et al. 2018).
    """

    def __init__(self, channels: int, ndf: int = 64, *, scaled: bool = False, spectral: bool = False) -> None:
        super().__init__()
        widths = (ndf, 2 * ndf, 4 * ndf, 8 * ndf)
        # pix2pixHD's padding of 2 keeps a verdict even where the quarter of a small picture is left
        layers = [nn.Sequential(nn.Conv2d(channels, ndf, 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for source, width, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            conv = nn.Conv2d(source, width, 4, stride=stride, padding=2, bias=False)
            layers.append(nn.Sequential(conv, InstanceNorm(width, scaled=scaled), nn.LeakyReLU(0.2)))
        layers.append(nn.Sequential(nn.Conv2d(widths[-1], 1, 4, padding=2)))
        self.layers = nn.ModuleList(layers)
        initialize(self)
        for layer in layers:
            if spectral:
                parametrizations.spectral_norm(layer[0])

    def forward(self, pair: Tensor) -> tuple[Tensor, ...]:
        """Map a pair (N, C, H, W) to the features of the five layers; the last is (N, 1, h, w)."""
        features = []
        for layer in self.layers:
            pair = layer(pair)
            features.append(pair)
        return tuple(features)


class Scales(nn.Module):
    """Discriminators of one structure at 1, 1/2, 1/4, ... of the size (Wang et al. 2018, section 3.2).

    Args:
        channels: Of what they see.
        ndf: Channels of their first layers.
        scales: How many.
        scaled: As in ``Patches``.
        spectral: As in ``Patches``.
    """

    def __init__(
        self, channels: int, ndf: int = 64, scales: int = 3, *, scaled: bool = False, spectral: bool = False
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches(channels, ndf, scaled=scaled, spectral=spectral) for _ in range(scales))

    def forward(self, pair: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Map a pair (N, C, H, W) to each discriminator's verdict, the finest first."""
        verdicts = []
        for number, judge in enumerate(self.scales):
            if number:
                pair = F.avg_pool2d(pair, 3, stride=2, padding=1, count_include_pad=False)
            verdicts.append(judge(pair))
        return tuple(verdicts)


@dataclass(frozen=True)
class Contest:
    """On what terms a generator meets discriminators that see photo and picture; its fields are its settings.

    Args:
        kind: "lsgan", "hinge" or "vanilla".
        adversarial: Weight of all that the discriminators say, against a loss of labels that counts 1.
        matching: Weight of feature matching, against a GAN loss that counts 1; 0 for none.
        scales: How many discriminators, each at half the size of the one before.
        ndf: Channels of their first layers.
        scaled: Whether their norms have a learned scale.
        spectral_norm: Divide their convolutions by their largest singular values.
        gradient_penalty: Weight of R1, 0 for none.
    """

    kind: Kind = "lsgan"
    adversarial: float = 0.01
    matching: float = 10.0
    scales: int = 3
    ndf: int = 64
    scaled: bool = False
    spectral_norm: bool = False
    gradient_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= MAX_SCALES:
            raise UsageError(f"there can be 1 to {MAX_SCALES} scales, found {self.scales}", hint="give --scales 3")
        if self.ndf < 1:
            raise UsageError(f"a discriminator needs channels, found --ndf {self.ndf}", hint="give --ndf 64")
        weights = {
            "adversarial": self.adversarial,
            "matching": self.matching,
            "gradient-penalty": self.gradient_penalty,
        }
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"a weight is 0 or more, found --{name} {weight}")


def against(terms: Contest) -> Mapping[str, Rival]:
    """Make the discriminators that trained pairs are judged by, under their name; none where their weight is 0.

    A picture smaller than its photo is judged beside photo and target of its own size.
    """
    return {NAME: conditional(terms)} if terms.adversarial else {}


def conditional(terms: Contest) -> Rival:
    """Make discriminators that see the photo and a picture of it, concatenated (Isola et al. 2017, section 3)."""

    def loss(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        image, target = _beside(outputs[0], batch)
        target.requires_grad_(terms.gradient_penalty > 0)
        real, fake = _verdicts(cast, image, target, as_picture(outputs[0]))
        told = {"loss": judging(real, fake, terms.kind)}
        if terms.gradient_penalty:
            told["penalty"] = r1(real, target)
            told["loss"] = told["loss"] + terms.gradient_penalty * told["penalty"]
        return {name: value if name == "loss" else value.detach() for name, value in told.items()}

    def pressure(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        real, fake = _verdicts(cast, *_beside(outputs[0], batch), as_picture(outputs[0]))
        told = {"gan": fooling(fake, terms.kind)}
        total = told["gan"]
        if terms.matching:
            told["matching"] = feature_matching(real, fake)
            total = total + terms.matching * told["matching"]
        return {"loss": terms.adversarial * total, **{name: value.detach() for name, value in told.items()}}

    def build() -> nn.Module:
        return Scales(6, terms.ndf, terms.scales, scaled=terms.scaled, spectral=terms.spectral_norm)

    return Rival(build, loss, pressure, asdict(terms))


def _verdicts(cast: Cast, image: Tensor, target: Tensor, picture: Tensor) -> tuple[list[list[Tensor]], ...]:
    """What the judge says of the true pictures and of ours, from one pass, as several processes need."""
    both = cast[NAME](torch.cat([torch.cat((image, shown), 1) for shown in (target, picture)]))
    halves = [[layer.chunk(2) for layer in verdict] for verdict in both]
    return tuple([[layer[half] for layer in verdict] for verdict in halves] for half in (0, 1))


def _beside(raw: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Photo and target, -1..1, at the size of our picture."""
    fitted = at_size_of(raw, batch)
    return fitted["image"], fitted["target"] * 2 - 1


def as_picture(raw: Tensor) -> Tensor:
    """Tanh of a generator's raw output: float32, -1..1, what judges and other generators see."""
    return torch.tanh(full(raw))


def at_size_of(raw: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Photo "image" and "target" (N, C, H, W) brought to the sides of ``raw`` by the mean over areas."""
    size = raw.shape[2:]
    return {
        key: batch[key] if batch[key].shape[2:] == size else F.interpolate(batch[key], size=size, mode="area")
        for key in ("image", "target")
    }


def paired_loss(task: Subject) -> LossOf:
    """The task's own loss, at the size of what came out: while G1 trains alone its picture is smaller."""
    return lambda outputs, batch: task.loss(outputs, at_size_of(outputs[0], batch))


def judging(real: Sequence[Verdict], fake: Sequence[Verdict], kind: Kind) -> Tensor:
    """What the discriminators minimise: sum over scales of the mean over patches of N, h, w.

    "lsgan": half of (real - 1)^2 + fake^2 (Mao et al. 2017, equation 9); "hinge": max(0, 1 - real) +
    max(0, 1 + fake) (Lim & Ye 2017, section 3); "vanilla": half of -log s(real) - log(1 - s(fake)), s the sigmoid
    (Goodfellow et al. 2014, equation 1, halved by Isola et al. 2017, section 3.3).
    """
    return torch.stack([_apart(full(r[-1]), full(f[-1]), kind) for r, f in zip(real, fake, strict=True)]).sum()


def _apart(real: Tensor, fake: Tensor, kind: Kind) -> Tensor:
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "vanilla":
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def fooling(fake: Sequence[Verdict], kind: Kind) -> Tensor:
    """What a generator minimises, reduced as in ``judging``.

    (fake - 1)^2 for "lsgan", -fake for "hinge", -log s(fake) for "vanilla" (its non-saturating form, Goodfellow et al.
    2014, section 3).
    """
    return torch.stack([_liked(full(verdict[-1]), kind) for verdict in fake]).sum()


def _liked(opinion: Tensor, kind: Kind) -> Tensor:
    if kind == "hinge":
        return -opinion.mean()
    if kind == "vanilla":
        return F.softplus(-opinion).mean()
    return (opinion - 1).square().mean()


def feature_matching(real: Sequence[Verdict], fake: Sequence[Verdict]) -> Tensor:
    """L1 between a discriminator's features of a real and a made picture (Wang et al. 2018, equation 4).

    Mean over N, C, h, w of each layer, the raw opinion left out; sum over layers and scales. No gradient into ``real``.
    """
    layers = [pair for r, f in zip(real, fake, strict=True) for pair in zip(r[:-1], f[:-1], strict=True)]
    return torch.stack([F.l1_loss(full(f), full(r).detach()) for r, f in layers]).sum()


def r1(real: Sequence[Verdict], picture: Tensor) -> Tensor:
    """Half the squared norm of the gradient of D at real pictures: mean over N (Mescheder et al. 2018, equation 9).

    D of a picture is the sum of its opinions, each scale's divided by the root of their number, so that the penalty
    does not grow with the picture. picture: (N, C, H, W), what ``real`` was computed from, with ``requires_grad``.
    """
    opinions = [full(verdict[-1]) for verdict in real]
    total = torch.stack([o.sum() / o[0].numel() ** 0.5 for o in opinions]).sum()
    (slope,) = torch.autograd.grad(total, picture, create_graph=True)
    return full(slope).square().sum((1, 2, 3)).mean() / 2
