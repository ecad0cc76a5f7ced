"""Flags of quantization-aware training, and which of them quantization itself goes by."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from compress.core.options import Compute, Making, Seen
from compress.jobs.options import Shrinking


@dataclass(frozen=True, kw_only=True)
class Refining(Making, Seen, Compute):
    """How a quantized network is trained."""

    model: str = ""
    """Id, id prefix, name or any .onnx file, float32 or quantized from one; by default the newest float32."""
    dtype: Literal["int8", "int4", "int8w", "int4w"] = "int8"
    """int8: weights and maps. int4: the same with weights in 4 bits by block. int8w, int4w: weights only."""
    teacher: str = ""
    """Id or name of the artifact whose pictures it learns; its own float32 parent when not given."""
    steps: int = 300
    """Optimizer steps."""
    lr: float = 1e-6
    """Learning rate of Adam for weights; biases have 30 times it. Warms up, then decays."""
    batch: int = 8
    """Pictures a step."""
    labels: float = 0.0
    """Weight of the task's own loss on the labels, beside the difference to the teacher's picture."""
    warmup: int = 0
    """Steps during which the ranges of 8-bit maps follow what they see; then they are frozen as they are. Ranges that
    calibration chose are better left alone."""
    validate_every: int | None = None
    """Steps between looks at the selection photos, a tenth of all when not given; the best state is what ships."""
    augment: Annotated[bool, Parameter(negative="--no-augment")] = True
    """Crop, flip and recolour training pictures."""
    runtime: Literal["ort", "openvino", "web"] = "ort"
    """What will run the file: it is judged there."""
    calibration: int = 128
    """Training photos that show the range of every map to start from."""
    selection: int = 16
    """Validation photos that settings and states are chosen on."""
    method: Literal["auto", "minmax", "percentile", "entropy", "mse"] = "auto"
    """How a range is read off the calibration photos; auto: whichever wins on the selection photos."""
    tune: Literal["none", "fast", "full"] = "fast"
    """What is tried before training, see compress quantize."""
    max_loss_increase: str = ""
    """Largest rise of the loss, like 0.5%; a result beyond is rejected."""
    style: Literal["auto", "all", "convolutions", "inputs"] = "auto"
    """Which maps are 8 bits: all, those around convolutions, or only those convolutions read."""
    exclude: tuple[str, ...] = ()
    """Name of a graph node to leave in float, repeatable; compress quantize --explain lists them."""
    include: tuple[str, ...] = ()
    """Name of a graph node to quantize although the policy would not, repeatable."""
    safe_weights: bool = False
    """Weights that can't overflow 16 bits on processors without VNNI; costs a little accuracy."""
    size: int | None = None
    """Pixels a side of training and calibration pictures and at the looks in between; the network's own when not given.
    The result is judged at the network's own."""
    force: bool = False
    """Keep a result that is not worth having, marked as rejected."""

    def shrinking(self) -> Shrinking:
        """The same as `compress quantize` has it."""
        mine = {field.name for field in dataclasses.fields(self)}
        shared = [field.name for field in dataclasses.fields(Shrinking) if field.name in mine]
        return Shrinking(**{name: getattr(self, name) for name in shared})
