"""torchao's PT2E: the quantizer of PyTorch's Inductor for x86, histograms for maps, ranges for weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from torch import fx

from compress.core.machine import require
from compress.kit.quant.calibrate import Feed
from compress.kit.quant.engines.engine import Advance, Chosen, quantize_by, singly
from compress.kit.quant.engines.traced import Traced, trace
from compress.kit.quant.engines.watched import Watched, plan_of, watch
from compress.kit.quant.plan import Choice
from compress.kit.quant.policy import Style
from compress.kit.quant.quantize import QuantReport
from compress.kit.ship.runtime import quiet


def quantize_pt2e(
    source: Path,
    target: Path,
    batches: Iterable[Feed],
    *,
    runtime: str = "ort",
    exclude: Sequence[str] = (),
    advance: Advance | None = None,
) -> QuantReport:
    """Quantize an ONNX file with the decisions of torchao's X86InductorQuantizer in its default settings.

    Args:
        source: A float32 ONNX file of one image input; it is only read.
        target: Where the int8 file goes, whole or not at all.
        batches: Inputs by name, float32 (N, C, H, W), all of one size; seen once, one image at a time.
        runtime: Decides which maps are rounded, see ``style_for``.
        exclude: Names of nodes to leave in float32.
        advance: Called after each image.

    Raises:
        ArtifactError: If the source is no float32 ONNX file, or holds nothing to quantize.
        CompressError: As ``plan_pt2e`` does.
    """

    def choose(prepared: onnx.ModelProto, style: Style, keep: dict[str, Choice]) -> Chosen:
        return plan_pt2e(prepared, batches, style=style, keep=keep, advance=advance)

    return quantize_by(choose, source, target, runtime, exclude)


def plan_pt2e(
    prepared: onnx.ModelProto,
    batches: Iterable[Feed],
    *,
    style: Style,
    keep: Mapping[str, Choice] | None = None,
    advance: Advance | None = None,
) -> Chosen:
    """Plan a prepared graph (see ``prepare_graph``) by what torchao's observers say; the rest as ``quantize_pt2e``.

    ``keep``: choices that win over the engine's, by node name.

    Raises:
        MissingExtraError: If torchao is not installed.
        UsageError: If the graph can't be traced, a batch doesn't fit it, or ``keep`` names no node.
        DataError: If there is no image, or one makes values that aren't finite.
    """
    require("pt2e")
    watched: Watched | None = None
    count = 0
    for image in singly(batches, prepared.graph.input[0].name):
        if watched is None:
            first, traced = image, trace(prepared, image.shape)
            watched = watch(traced, observe(traced), prepared, style, keep or {})
        watched.see(image)
        count += 1
        if advance is not None:
            advance()
    assert watched is not None  # singly yields or raises
    return Chosen(plan_of(watched, prepared, style), first, count)


def observe(traced: Traced) -> fx.GraphModule:
    """Put the observers of X86InductorQuantizer's default settings into a traced graph, which is used up."""
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e  # type: ignore[import-untyped]
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # type: ignore[import-untyped]

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared: fx.GraphModule = prepare_pt2e(traced.module, quantizer)
        return prepared
