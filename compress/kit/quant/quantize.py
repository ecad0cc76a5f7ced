"""Post-training quantization of an ONNX file from end to end: prepare, calibrate, plan, write, report."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.core.errors import UsageError
from compress.core.whole import written_whole
from compress.kit.graph import sqnr
from compress.kit.quant.biases import correct_biases
from compress.kit.quant.calibrate import Feed, calibrate
from compress.kit.quant.clip import Method, grids
from compress.kit.quant.insert import insert
from compress.kit.quant.plan import INTEGER, Choice, Plan
from compress.kit.quant.policy import HEADS, NORMS, decide, style_for
from compress.kit.quant.prepare import WEIGHTED, check_quantizable, prepare_graph
from compress.kit.ship.runtime import open_session, read_onnx


@dataclass(frozen=True)
class QuantReport:
    """What a quantization did.

    ``operators`` counts the nodes that compute in 8 bits, ``forms`` the layers with weights by their form; ``left``
    says of each layer, norm and head that does not compute in 8 bits, by name, why. ``sqnr`` is in dB, of the first
    output on the first calibration batch; nan where nothing was calibrated.
    """

    quantized: int  # convolutions and matrix products that compute in 8 bits
    left: dict[str, str]
    operators: dict[str, int]
    forms: dict[str, int]
    bytes_before: int
    bytes_after: int
    images: int
    sqnr: float


def quantize_int8(
    source: Path,
    target: Path,
    batches: Iterable[Feed],
    *,
    method: Method = "minmax",
    exclude: Sequence[str] = (),
    percentile: float = 99.999,
    correct_bias: bool = True,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> QuantReport:
    """Quantize an ONNX file: weights int8 per output channel, symmetric; activations uint8; biases int32.

    The form is QDQ, which ONNX Runtime and OpenVINO both fuse into integer convolutions. Signed activations would
    leave most convolutions in float32 on x86.

    Args:
        source: A float32 ONNX file; it is only read.
        target: Where the int8 file goes, whole or not at all.
        batches: Inputs by name, float32 (N, C, H, W); seen once, one at a time.
        method: How ranges are found, see ``clip.chosen_range``.
        exclude: Names of nodes to leave in float32.
        percentile: Share of values that "percentile" keeps, in percent.
        correct_bias: Take the mean error that rounding the weights makes off the biases, see ``correct_biases``.
        threads: Threads of calibration; 0 leaves the choice to ONNX Runtime.
        advance: Called after each batch.

    Raises:
        ArtifactError: If the source is no float32 ONNX file, or holds nothing to quantize.
        UsageError: If ``exclude`` names no node, a batch doesn't fit the network, or source and target are one.
        DataError: If there is no batch.
    """
    if source.resolve() == target.resolve():
        raise UsageError(f"source and target are one file, '{source.name}'")
    model = read_onnx(source)
    check_quantizable(source.name, model)
    ready = prepare_graph(model)
    keep = {name: Choice("float32", "excluded by name") for name in exclude}
    style, _ = style_for(ready, "ort")
    decide(ready, {}, style=style, keep=keep)  # a wrong name shows before the photos are run
    with tempfile.TemporaryDirectory() as folder, written_whole(target) as scratch:
        prepared = Path(folder) / "prepared.onnx"
        onnx.save(ready, prepared)
        seen = calibrate(prepared, batches, threads=threads, advance=advance)
        height, width = next(iter(seen.first.values())).shape[2:]
        plan = decide(ready, grids(seen, method, percentile=percentile), style=style, keep=keep, size=(height, width))
        write(correct_biases(ready, plan, seen.means) if correct_bias else ready, plan, scratch)
        first, second = (open_session(path).run(None, seen.first)[0] for path in (prepared, scratch))
        return report(ready, plan, source, scratch, seen.images, sqnr(first, second))


def write(prepared: onnx.ModelProto, plan: Plan, path: Path) -> None:
    """Write the planned graph to ``path`` and check that it is valid ONNX."""
    result = insert(prepared, plan)
    onnx.checker.check_model(result)
    onnx.save(result, path)


def report(
    prepared: onnx.ModelProto, plan: Plan, source: Path, written: Path, images: int = 0, noise: float = float("nan")
) -> QuantReport:
    """Say what a plan did to a graph, of which ``written`` is the file."""
    operators, forms, left = Counter[str](), Counter[str](), {}
    for node in prepared.graph.node:
        choice = plan.layers[node.name]
        if node.op_type in WEIGHTED:
            forms[choice.form] += 1
        if choice.form in INTEGER:
            operators[node.op_type] += 1
        elif node.op_type in (*WEIGHTED, *NORMS, *HEADS):
            left[node.name] = choice.reason
    sizes = source.stat().st_size, written.stat().st_size
    layers = sum(operators[name] for name in WEIGHTED)
    return QuantReport(layers, left, dict(operators), dict(forms), *sizes, images, noise)
