"""A discriminator that learns a quality function of masks, so that a network can minimise what it predicts (S6)."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.lesson import Batch, Cast, Losses, Outputs, Rival
from compress.kit.measure.losses import full
from compress.kit.measure.quality import QUALITIES, Name, cut
from compress.kit.nets.membrane import ErrorJudge

NAME = "discriminator"
GRID = 8  # patches a side that masks are mixed in
SPOILT = 0.35  # of a mask at most, about: worse ones are told apart without looking at the photo
SHIFT = 0.1  # of the side that a true mask is moved by, at most


@dataclass(frozen=True)
class Critic:
    """What the discriminator learns, and how it is held in check; its fields are its settings.

    Args:
        quality: The function it approximates, one of ``quality.QUALITIES``.
        gradient_penalty: Weight of R1 at true masks (Mescheder et al. 2018, equation 9), 0 for none.
        spectral_norm: Keep its weights' largest singular values at 1 (Miyato et al. 2018).
    """

    quality: Name = "iou2"
    gradient_penalty: float = 0.0
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gradient_penalty < float("inf"):
            raise UsageError(
                f"a weight is 0 or more, found --gradient-penalty {self.gradient_penalty}", hint="10 is usual"
            )

    def rival(self) -> Rival:
        """Make the player.

        Its "loss" is the squared error of what it predicts, mean over masks, plus the penalty. Its "pressure" is the
        error it predicts for our masks, mean over N; beside it "true", the quality function's own value.
        """
        return Rival(lambda: ErrorJudge(spectral_norm=self.spectral_norm), self._loss, self._pressure, asdict(self))

    def _loss(self, cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        truth = cut(batch["target"])
        real = truth.clone().requires_grad_(self.gradient_penalty > 0)
        shown = [real, *examples(_mask(outputs), truth, seed_of(batch["image"]))]
        with torch.no_grad():
            wanted = torch.stack([QUALITIES[self.quality](mask, truth) for mask in shown], 1)
        told = _predicted(cast, batch["image"], torch.cat(shown, 1))
        losses = {"loss": F.mse_loss(told, wanted)}
        if self.gradient_penalty:
            (slope,) = torch.autograd.grad(told[:, 0].sum(), real, create_graph=True)
            losses["penalty"] = full(slope).square().sum((1, 2, 3)).mean() / 2
            losses["loss"] = losses["loss"] + self.gradient_penalty * losses["penalty"]
        return {name: value if name == "loss" else value.detach() for name, value in losses.items()}

    def _pressure(self, cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        mask = _mask(outputs)
        told = _predicted(cast, batch["image"], mask).mean()
        true = QUALITIES[self.quality](mask.detach(), cut(batch["target"])).mean()
        return {"loss": told, "predicted": told.detach(), "true": true}


def examples(mask: Tensor, truth: Tensor, seed: int) -> list[Tensor]:
    """Masks of every quality, (N, 1, H, W) each, values 0..1, from ours and the true ones: a pure function.

    Ours; ours blended with the true mask; patches of ours in the true mask; the true mask with patches of its
    opposite; the true mask moved by a little, and that of another photo, which look right wherever the photo is not
    looked at.
    """
    random = torch.Generator().manual_seed(seed)
    share = torch.rand((len(truth), 1, 1, 1), generator=random).to(truth.device)
    blended = mask + (truth - mask) * share
    mixed = torch.where(_patches(truth, random, 1.0), mask, truth)
    spoilt = torch.where(_patches(truth, random, SPOILT), 1 - truth, truth)
    reach = [max(round(SHIFT * side), 1) for side in truth.shape[2:]]
    moves = [[int(torch.randint(-r, r + 1, (), generator=random)) for r in reach] for _ in truth]
    moved = torch.stack([one.roll(move, (1, 2)) for one, move in zip(truth, moves, strict=True)])
    return [mask, blended, mixed, spoilt, moved, truth.roll(1, 0)]


def seed_of(image: Tensor) -> int:
    """Make a seed of a batch's pixels: a resumed run draws what the first one drew, and no state is saved for it."""
    thinned = image[:, :, ::7, ::7].detach().cpu().contiguous().numpy()
    return zlib.crc32(thinned.tobytes())


def _patches(like: Tensor, random: torch.Generator, most: float) -> Tensor:
    """Smooth patches (N, 1, H, W), True in a share of each picture that is drawn from 0 to ``most``."""
    count = len(like)
    coarse = torch.rand((count, 1, GRID, GRID), generator=random)
    fine = F.interpolate(coarse, size=like.shape[2:], mode="bicubic", align_corners=False)
    share = torch.rand((count, 1, 1, 1), generator=random) * most
    return (fine > 1 - share).to(like.device)


def _mask(outputs: Outputs) -> Tensor:
    """Our mask, 0..1, float32."""
    return (torch.tanh(full(outputs[0])) + 1) / 2


def _predicted(cast: Cast, image: Tensor, masks: Tensor) -> Tensor:
    """Errors (N, K) that the discriminator predicts of masks (N, K, H, W), 0..1; float32."""
    told: Tensor = cast[NAME](image, 2 * masks - 1)
    return full(told)
