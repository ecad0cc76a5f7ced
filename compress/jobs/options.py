"""Flags that several methods share, without a framework: a command's help must not wait for torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from compress.core.options import Compute, Making, Seen


@dataclass(frozen=True, kw_only=True)
class Fitting(Making, Seen, Compute):
    """How a network is trained. What is not given comes from the preset."""

    preset: Literal["quick", "thesis"] = "quick"
    """quick: minutes on two cores. thesis: Adam 1e-4 for 100 epochs, then 1e-5, 300 in all, at the network's size."""
    size: int | None = None
    """Pixels a side of training pictures."""
    steps: int | None = None
    """Optimizer steps."""
    epochs: int | None = None
    """Passes over the data, instead of --steps."""
    batch: int | None = None
    """Pictures a step, over all devices."""
    lr: float | None = None
    """Learning rate of Adam."""
    schedule: Literal["cosine", "step"] | None = None
    """cosine: warm-up, then decay. step: a tenth of the rate after the first third."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; auto takes bf16 where the hardware multiplies it."""
    ema: float | None = None
    """Decay of a running mean of the weights that is kept instead of the last ones; 0 for none; GANs have one."""
    validate_every: int = 0
    """Steps between looks at the validation split, kept as numbers and pictures; 0 for the end alone."""
    augment: Annotated[bool, Parameter(negative="--no-augment")] = True
    """Crop, flip and recolour training pictures."""


@dataclass(frozen=True, kw_only=True)
class Shrinking(Making, Seen):
    """How a network is quantized without training."""

    model: str = ""
    """Id, id prefix, name or any .onnx file; the newest float32 artifact when not given."""
    dtype: Literal["int8", "float16"] = "int8"
    """int8: weights and activations, for speed and size. float16: weights only, for size."""
    calibration: int = 128
    """Training photos that show int8 the range of every activation."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How a range is read off the calibration photos."""
    exclude: tuple[str, ...] = ()
    """Name of a graph node to leave in float, repeatable."""
    size: int | None = None
    """Pixels a side of the calibration photos; the network's own when not given."""
