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
    """Id, id prefix, name, any .onnx file, or package.module:function that builds it; else the newest."""
    dtype: Literal["int8", "int4", "int8w", "int4w", "float16", "bfloat16", "mixed"] = "int8"
    """int8: weights and maps, for speed and size. int4: the same with weights in 4 bits by block. int8w, int4w,
    float16, bfloat16: weights only, for size. mixed: int4 where it costs little, int8 elsewhere."""
    runtime: Literal["ort", "openvino", "web"] = "ort"
    """What will run the file: it is tuned, scored and timed there. web: ONNX Runtime Web, scored in ONNX Runtime."""
    engine: Literal["ort", "inc", "pt2e"] = "ort"
    """Who rounds: ort, ours; inc, neural-compressor; pt2e, torchao."""
    activations: Literal["float32", "float16"] = "float32"
    """Arithmetic of a file whose weights alone are stored smaller: float16 is for graphics cards and the web."""
    calibration: int = 128
    """Training photos that show int8 the range of every map."""
    selection: int = 16
    """Validation photos that settings are chosen on; four times as many with --max-loss-increase."""
    method: Literal["auto", "minmax", "percentile", "entropy", "mse"] = "auto"
    """How a range is read off the calibration photos; auto: whichever wins on the selection photos."""
    tune: Literal["none", "fast", "full"] = "fast"
    """What is tried besides: fast, clipping. full, equalized channels and learned rounding too; minutes."""
    sensitivity: bool = False
    """Measure what each layer costs, and keep it for the report; --max-loss-increase does so anyway."""
    max_loss_increase: str = ""
    """Largest rise of the loss, like 0.5%: the cheapest set of layers is kept wider until it holds."""
    max_bytes: str = ""
    """Largest file, like 6.4MB, for --dtype mixed."""
    style: Literal["auto", "all", "convolutions", "inputs"] = "auto"
    """Which maps are 8 bits: all, those around convolutions, or only those convolutions read."""
    exclude: tuple[str, ...] = ()
    """Name of a graph node to leave in float, repeatable; --explain lists them."""
    include: tuple[str, ...] = ()
    """Name of a graph node to quantize although the policy would not, repeatable."""
    safe_weights: bool = False
    """Weights that can't overflow 16 bits on processors without VNNI; costs a little accuracy."""
    size: int | None = None
    """Pixels a side of the calibration photos; the network's own when not given."""
    task: str = "saliency"
    """What a model of package.module:function is for."""
    explain: bool = False
    """Print what becomes of every layer, and why."""
    force: bool = False
    """Keep a result that is not worth having, marked as rejected."""
