"""CycleGAN: two generators that undo each other and two judges, taught without pairs (Zhu et al., ICCV 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.kit.lesson import Batch, Cast, Lesson, Losses, Outputs, Rival
from compress.kit.nets.adversary import Patches, as_picture, fooling, judging
from compress.kit.nets.pix2pixhd import build_pix2pixhd

POOL = 50  # pictures that a judge is shown again (section 4)
BLOCKS = 9


class Pool(nn.Module):
    """The last pictures that were made, some of which are shown instead of new ones (Shrivastava et al. 2017, 2.3).

    Which ones follows from how many it has seen. It is all buffers, so that a checkpoint holds it.

    Args:
        size: How many it keeps.
    """

    kept: Tensor
    seen: Tensor

    def __init__(self, size: int = POOL) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("kept", torch.zeros(0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Map new pictures (N, C, H, W) to what is shown, without gradient.

        Until it is full, the new ones; then one half of the time an old one, whose place the new one takes.
        """
        if self.kept.shape[1:] != pictures.shape[1:]:
            self.kept = pictures.new_zeros(self.size, *pictures.shape[1:])
            self.seen.zero_()
        shown = []
        for picture in pictures.detach():
            seen = int(self.seen)
            random = np.random.Generator(np.random.Philox(key=np.array([seen, 6], np.uint64)))
            place = seen if seen < self.size else int(random.integers(self.size))
            old = seen >= self.size and random.random() < 0.5
            shown.append(self.kept[place].clone() if old else picture)
            if old or seen < self.size:
                self.kept[place] = picture
            self.seen += 1
        return torch.stack(shown)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if (stored := state_dict.get(f"{prefix}kept")) is not None:
            self.kept = torch.empty_like(stored, device=self.kept.device)
        super()._load_from_state_dict(state_dict, prefix, *others)


class Judge(nn.Module):
    """Patches of single pictures, and the pool of what it was shown."""

    def __init__(self, ndf: int, *, spectral: bool = False) -> None:
        super().__init__()
        self.patches = Patches(3, ndf, spectral=spectral)
        self.pool = Pool()

    def forward(self, made: Tensor, real: Tensor | None = None) -> tuple[Tensor, ...]:
        """Give an opinion (N, 1, h, w) of pictures (N, 3, H, W), -1..1: of made ones alone, or of (real, pooled)."""
        if real is None:
            return (self.patches(made)[-1],)
        both: Tensor = self.patches(torch.cat((real, self.pool(made))))[-1]
        return both.chunk(2)


def cycle_lesson(cycle: float, identity: float, *, ngf: int, ndf: int, spectral_norm: bool = False) -> Lesson:
    """Teach the way from A ("image") to B ("target") beside the way back, "backward", and a judge for each side.

    Section 3's objective with LSGAN: fool the judge + cycle * (L1 there and back + L1 back and there) + identity *
    (L1 of what is already there). Each player moves in turn, not both generators at once. No term compares a picture
    with its own target, so that pairs teach nothing more than two heaps of photos do.

    Args:
        cycle: Weight of both cycles; 10 published.
        identity: Weight of the identity; half of the cycle's published.
        ngf: Channels of the way back's first layer.
        ndf: Channels of the judges' first layers.
        spectral_norm: Divide the judges' convolutions by their largest singular values.
    """
    told = {"cycle": cycle, "identity": identity, "ngf": ngf, "ndf": ndf, "spectral_norm": spectral_norm, "pool": POOL}

    def back() -> nn.Module:
        return build_pix2pixhd(ngf, (BLOCKS, 0), enhancers=0)

    def both_cycles(cast: Cast, made: Tensor, batch: Batch, before: Tensor) -> Tensor:
        """L1 of A, made into B, made into A again, and of B, made into A (``before``), made into B again."""
        again, there = _through(cast, "backward", made), _through(cast, "network", before)
        return F.l1_loss(again, batch["image"]) + F.l1_loss(there, _after(batch))

    def backward_pressure(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        with torch.no_grad():
            before = _through(cast, "backward", _after(batch))
        cycles = both_cycles(cast, as_picture(outputs[0]), batch, before)
        same = _through(cast, "network", _after(batch))
        return weighed(cycles, F.l1_loss(same, _after(batch)))

    def backward_loss(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        before = _through(cast, "backward", _after(batch))
        cycles = both_cycles(cast, as_picture(outputs[0]), batch, before)
        same = _through(cast, "backward", batch["image"])
        gan = fooling([cast["judge_a"](before)], "lsgan")
        found = weighed(cycles, F.l1_loss(same, batch["image"]))
        return {**found, "loss": found["loss"] + gan, "gan": gan.detach()}

    def weighed(cycles: Tensor, same: Tensor) -> Losses:
        total = cycle * cycles + identity * same
        return {"loss": total, "cycle": cycles.detach(), "identity": same.detach()}

    def judge_a_loss(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:  # noqa: ARG001
        with torch.no_grad():
            made = _through(cast, "backward", _after(batch))
        return _judged(cast, "judge_a", made, batch["image"])

    def judge_b_loss(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:
        return _judged(cast, "judge_b", as_picture(outputs[0]), _after(batch))

    def judge_b_pressure(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:  # noqa: ARG001
        gan = fooling([cast["judge_b"](as_picture(outputs[0]))], "lsgan")
        return {"loss": gan, "gan": gan.detach()}

    def judge() -> nn.Module:
        return Judge(ndf, spectral=spectral_norm)

    rivals = {
        "backward": Rival(back, backward_loss, backward_pressure, told),
        "judge_b": Rival(judge, judge_b_loss, judge_b_pressure, told),
        "judge_a": Rival(judge, judge_a_loss, _nothing, told),
    }
    return Lesson(_nothing_to_hold, rivals, ema=0.999, settings=told)


def _nothing_to_hold(outputs: Outputs, batch: Batch) -> Losses:  # noqa: ARG001
    """No label: all there is to learn comes from the others."""
    return {"loss": 0.0 * as_picture(outputs[0]).mean()}


def _nothing(cast: Cast, outputs: Outputs, batch: Batch) -> Losses:  # noqa: ARG001
    return {"loss": outputs[0].new_zeros((), dtype=torch.float32)}


def _judged(cast: Cast, name: str, made: Tensor, real: Tensor) -> Losses:
    right, wrong = cast[name](made, real)
    return {"loss": judging([[right]], [[wrong]], "lsgan")}


def _through(cast: Cast, name: str, picture: Tensor) -> Tensor:
    return as_picture(cast[name](picture)[0])


def _after(batch: Batch) -> Tensor:
    """Photos of B, -1..1, as images are."""
    return batch["target"] * 2 - 1
