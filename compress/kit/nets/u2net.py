"""U²-Net from a table of stages: a U whose stages are U's themselves (Qin et al., Pattern Recognition 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.core.errors import UsageError
from compress.kit.nets.blocks import ConvBnRelu, Rsu, halve, resize_like

# In the order of a table's rows. The two lowest encoder stages and the lowest decoder stage are dilated (RSU-4F).
STAGES = (
    *(f"stage{number}" for number in range(1, 7)),
    *(f"stage{number}d" for number in range(5, 0, -1)),
)
DILATED = ("stage5", "stage6", "stage5d")

# Rows of [height, mid, out] in the order of STAGES: plain JSON, fit for a manifest. ``mid`` may be a list, see Rsu.
Rows = Sequence[Sequence[Any]]


# what must be alive: the bottom stage, the skip of every decoder stage, every side output
BRANCHES = (
    "stage6",
    *(f"join{number}:1" for number in range(5, 0, -1)),
    *(f"side{number}" for number in range(1, 7)),
)


@dataclass(frozen=True)
class Stage:
    """One RSU block of the table; ``mid`` lists the widths of the layers inside it (see ``Rsu``)."""

    height: int
    in_channels: int
    mid: tuple[int, ...]
    out_channels: int
    dilated: bool


def stage_table(rows: Rows, channels: int = 3) -> tuple[Stage, ...]:
    """Work out the eleven stages of a table: each decoder stage reads the stage below it and its encoder twin.

    Raises:
        UsageError: If the rows are not eleven of [height, mid, out] with positive whole numbers.
    """
    if len(rows) != len(STAGES):
        raise UsageError(f"a U²-Net has {len(STAGES)} stages, found {len(rows)} rows", hint=f"order: {list(STAGES)}")
    checked = [_check_row(name, row) for name, row in zip(STAGES, rows, strict=True)]
    outs = [out for _, _, out in checked]
    inputs = [channels, *outs[:5], *(outs[index - 1] + outs[10 - index] for index in range(6, 11))]
    return tuple(
        Stage(height, source, mid, out, name in DILATED)
        for name, source, (height, mid, out) in zip(STAGES, inputs, checked, strict=True)
    )


def _check_row(name: str, row: Sequence[Any]) -> tuple[int, tuple[int, ...], int]:
    try:
        height, mid, out = row
        mids = (mid,) * (2 * height - 2) if isinstance(mid, int) else tuple(mid)
        fits = height >= 2 and len(mids) == 2 * height - 2 and all(type(n) is int and n > 0 for n in (*mids, out))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UsageError(
            f"{name} wants [height >= 2, mid, out] of positive whole numbers, found {row!r}",
            hint="mid is one width or a list of 2 * height - 2 widths",
        )
    return height, mids, out


def cap_rows(rows: Rows, width: int | None) -> list[list[Any]]:
    """Return the table with every channel count capped at ``width`` (None: as it is)."""

    def cap(count: Any) -> Any:
        if width is None:
            return count
        return min(count, width) if isinstance(count, int) else [min(n, width) for n in count]

    return [[height, cap(mid), cap(out)] for height, mid, out in rows]


def mirrored(outs: int, mids: tuple[int, int, int, int, int, int]) -> list[list[int]]:
    """Make the table whose stages all give ``outs`` channels and whose decoder mirrors the encoder's ``mids``."""
    heights = (7, 6, 5, 4, 4, 4)
    encoder = [[height, mid, outs] for height, mid in zip(heights, mids, strict=True)]
    return encoder + [list(row) for row in encoder[4::-1]]


class Join(nn.Module):
    """Where a decoder stage's two inputs meet: a module without weights, so that each of them can be told apart."""

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Resize below (N, C, h, w) to the skip's size and put skip (N, C', H, W) behind it: (N, C + C', H, W)."""
        return torch.cat((resize_like(below, skip), skip), 1)


class U2Net(nn.Module):
    """Nested U for salient objects; H and W of any size, 32 or more sensible.

    Keys of its state are those of the official checkpoints.

    Args:
        table: Eleven stages, see ``stage_table``.
    """

    def __init__(self, table: Sequence[Stage]) -> None:
        super().__init__()
        for name, stage in zip(STAGES, table, strict=True):
            block = Rsu(stage.height, stage.in_channels, stage.mid, stage.out_channels, dilated=stage.dilated)
            self.add_module(name, block)
        for number in range(5, 0, -1):
            self.add_module(f"join{number}", Join())
        outs = {name: stage.out_channels for name, stage in zip(STAGES, table, strict=True)}
        for number, name in enumerate(_sources(), start=1):
            self.add_module(f"side{number}", nn.Conv2d(outs[name], 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)
        # The fused map starts as the mean of the six. From random weights Adam, which moves each by at most its rate
        # a step, needs over a thousand steps to turn a negative one: 200 steps of Big at 1e-3 left it worse than a
        # constant (.63 against .39 of its sides).
        nn.init.constant_(self.outconv.weight, 1 / 6)
        nn.init.zeros_(cast("Tensor", self.outconv.bias))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, 3, H, W) to seven logits (N, 1, H, W): the fused one, then sides 1 (finest) to 6."""
        maps = self._decode(self._encode(image))
        sides = [getattr(self, f"side{number}")(features) for number, features in enumerate(maps, start=1)]
        sides[1:] = [resize_like(side, sides[0]) for side in sides[1:]]
        return (cast("Tensor", self.outconv(torch.cat(sides, 1))), *sides)

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for number in range(1, 7):
            x = getattr(self, f"stage{number}")(halve(x) if maps else x)
            maps.append(x)
        return maps

    def _decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """Return the maps that have a side output, from the input's size down to stage 6."""
        maps = [encoded[5]]
        for number in range(5, 0, -1):
            joined = getattr(self, f"join{number}")(maps[-1], encoded[number - 1])
            maps.append(getattr(self, f"stage{number}d")(joined))
        return maps[::-1]


def _sources() -> tuple[str, ...]:
    """Stages that feed side1 to side6."""
    return (*(f"stage{number}d" for number in range(1, 6)), "stage6")


def build_u2net(rows: Rows, width: int | None = None, stages: Rows | None = None) -> U2Net:
    """Build a U²-Net from ``stages``, or from its own ``rows`` where those are None, capped at ``width`` channels.

    Raises:
        UsageError: If ``stages`` is no table, see ``stage_table``.
    """
    chosen = rows if stages is None else stages
    stage_table(chosen)
    return U2Net(stage_table(cap_rows(chosen, width)))


def read_rows(net: U2Net) -> list[list[Any]]:
    """Read the table back from a network's convolutions, after pruning too: ``stages`` that rebuild its shapes."""
    rows: list[list[Any]] = []
    for name in STAGES:
        block = cast("Rsu", net.get_submodule(name))
        inner = [*range(1, block.height + 1), *(f"{level}d" for level in range(block.height - 1, 1, -1))]
        mids = [cast("ConvBnRelu", block.get_submodule(f"rebnconv{key}")).conv_s1.out_channels for key in inner]
        rows.append([block.height, mids[0] if len(set(mids)) == 1 else mids, block.rebnconvin.conv_s1.out_channels])
    return rows
