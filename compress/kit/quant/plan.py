"""What happens to every layer and every map of a graph when it is quantized: the frozen plan between all parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# int8: weights and the maps around it. int4: the same with weights stored in 4 bits by block. The rest store their
# weights so and compute in float32.
Form = Literal["float32", "int8", "int4", "int8w", "int4w", "float16w", "bfloat16w"]
INTEGER: tuple[Form, ...] = ("int8", "int4")

# bytes of one stored weight, scales aside
STORED_BYTES: dict[Form, float] = {
    "float32": 4, "int8": 1, "int4": 0.5, "int8w": 1, "int4w": 0.5, "float16w": 2, "bfloat16w": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The 256 values of an 8-bit map: ``(q - zero) * scale`` for q in 0..255; zero itself is always one of them."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """Lay the grid over low..high, widened to hold zero; padding and ReLU need it exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255))
        if scale < np.finfo(np.float32).tiny:
            return cls(1.0, 0)
        return cls(scale, int(np.clip(np.round(-low / scale), 0, 255)))

    @property
    def low(self) -> float:
        """Smallest value of the grid."""
        return -self.zero * self.scale

    @property
    def high(self) -> float:
        """Largest value of the grid."""
        return (255 - self.zero) * self.scale


@dataclass(frozen=True)
class Choice:
    """The form of one node, and why it has it; with ``wide`` it reads its map unrounded, whoever else rounds it."""

    form: Form
    reason: str
    wide: bool = False


@dataclass(frozen=True)
class Rounded:
    """Weights somebody rounded already: int8, shaped as the weights, and one float32 scale per output channel."""

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]  # (O,)


@dataclass(frozen=True)
class Plan:
    """How a prepared graph is quantized.

    ``layers`` has every node, by name; ``maps`` every tensor that is rounded to 8 bits, by name. With ``shared`` all
    readers of such a tensor read it rounded; without, only the integer layers do. ``rounded`` holds weights by the
    name of their node where plain rounding was not good enough.
    """

    layers: Mapping[str, Choice]
    maps: Mapping[str, Grid]
    shared: bool = True
    rounded: Mapping[str, Rounded] = field(default_factory=dict)
    safe_weights: bool = False  # no sum of two products leaves 16 bits: right on processors without VNNI too
    half: bool = False  # what is not rounded to 8 bits computes in float16
    block: int = 32  # input channels that share a step of 4-bit weights
