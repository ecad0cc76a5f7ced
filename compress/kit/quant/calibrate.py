"""Calibration: what range every tensor of an ONNX graph takes over real images, one batch in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, create_calibrator

from compress.core.errors import DataError, UsageError, unknown
from compress.kit.ship.runtime import open_session, quiet

Method = Literal["minmax", "entropy", "percentile"]
Feed = Mapping[str, NDArray[Any]]  # the graph's inputs by name

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True)
class Calibration:
    """What calibration saw.

    ``ranges``: smallest and largest value to keep of each tensor. ``means``: mean per channel, over images and
    places, of each convolution's input. ``first``: the first batch, kept to look at the result with.
    """

    ranges: TensorsData
    means: dict[str, NDArray[np.float64]]
    images: int
    first: dict[str, NDArray[Any]]


class _Statistics:
    """Smallest, largest and mean values, gathered by the graph itself so that no activation leaves it."""

    def __init__(self, model: onnx.ModelProto, folder: Path, threads: int) -> None:
        self.tensors = _float_tensors(model)
        self.inputs = _convolution_inputs(model)
        path = folder / "statistics.onnx"
        onnx.save(_with_statistics(model, self.tensors, self.inputs), path)
        self._session = open_session(path, threads=threads, lean=True)
        self._low = np.full(len(self.tensors), np.inf)
        self._high = np.full(len(self.tensors), -np.inf)
        self._sums: dict[str, NDArray[np.float64]] = {}
        self.images = 0

    def see(self, feed: Feed) -> None:
        """Count one batch in."""
        names = [f"{kind}:{name}" for kind in ("low", "high") for name in self.tensors]
        values = self._session.run([*names, *(f"mean:{name}" for name in self.inputs)], dict(feed))
        count = len(self.tensors)
        self._low = np.minimum(self._low, np.array(values[:count], np.float64))
        self._high = np.maximum(self._high, np.array(values[count : 2 * count], np.float64))
        for name, value in zip(self.inputs, values[2 * count :], strict=True):
            # (N, C, 1, 1), the means of each image: sum over N
            self._sums[name] = self._sums.get(name, 0.0) + value.astype(np.float64).sum((0, 2, 3))
        self.images += len(next(iter(feed.values())))

    def ranges(self) -> TensorsData:
        """Smallest and largest value of each tensor."""
        pairs = zip(self._low.astype(np.float32), self._high.astype(np.float32), strict=True)
        return TensorsData(CalibrationMethod.MinMax, dict(zip(self.tensors, pairs, strict=True)))

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Mean per channel of each convolution's input."""
        return {name: total / self.images for name, total in self._sums.items()}


class _One:
    """One batch as the reader that ONNX Runtime's calibrators want."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = [dict(feed)]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self._feeds.pop() if self._feeds else None


def calibrate(
    path: Path,
    batches: Iterable[Feed],
    *,
    method: Method = "minmax",
    percentile: float = 99.999,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> Calibration:
    """Run a float32 graph with known shapes over batches and gather ranges; each batch is dropped once seen.

    "minmax" keeps the smallest and the largest value, "percentile" that share of the values of a histogram, and
    "entropy" the range whose histogram loses least to 8 bits (ONNX Runtime's calibrators, fed one batch at a time:
    given all of them they would hold every activation of every image). The last two run each batch twice.

    Raises:
        DataError: If ``batches`` is empty or makes a tensor that isn't finite.
        UsageError: If there is no such method, or a batch doesn't fit the graph.
    """
    if method not in METHODS:
        raise unknown("calibration method", method, list(METHODS))
    model = onnx.load(path)
    with tempfile.TemporaryDirectory() as scratch:
        statistics = _Statistics(model, Path(scratch), threads)
        histograms = _histograms(path, Path(scratch), method, percentile) if method != "minmax" else None
        first: dict[str, NDArray[Any]] = {}
        for feed in batches:
            first = first or dict(feed)
            _see(statistics, histograms, feed)
            if advance is not None:
                advance()
        if not statistics.images:
            raise DataError("there is no image to calibrate with", hint="give --data a folder with photos")
        ranges = _checked(statistics.ranges())
        if histograms is not None:
            with quiet():
                ranges = histograms.compute_data()
        return Calibration(ranges, statistics.means(), statistics.images, first)


def _see(statistics: _Statistics, histograms: Any, feed: Feed) -> None:
    try:
        statistics.see(feed)
    # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
    except Exception as error:
        found = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
        said = " ".join(str(error).split())[-160:]
        raise UsageError(f"a calibration batch doesn't fit the network: {found}", hint=f"it says: {said}") from error
    if histograms is not None:
        with quiet():
            histograms.collect_data(_One(feed))


def _histograms(path: Path, folder: Path, method: Method, percentile: float) -> Any:
    # activations are unsigned with a zero point, so the two ends of a range are clipped apart
    extra = {"symmetric": False, "percentile": percentile} if method == "percentile" else {}
    augmented = str(folder / "histograms.onnx")
    with quiet():
        return create_calibrator(
            path, augmented_model_path=augmented, calibrate_method=METHODS[method], extra_options=extra
        )


def _checked(ranges: TensorsData) -> TensorsData:
    odd = [name for name, data in ranges.items() if not np.isfinite(data.range_value).all()]
    if odd:
        raise DataError(f"'{odd[0]}' takes values that aren't finite over the calibration images")
    return ranges


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all float32 tensors that are computed or fed, without initialisers."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    floats = (
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    )
    return list(dict.fromkeys(name for name in floats if name not in stored))


def _convolution_inputs(model: onnx.ModelProto) -> list[str]:
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv"))


def _with_statistics(model: onnx.ModelProto, tensors: list[str], inputs: list[str]) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    nodes = [
        (kind, name, f"{short}:{name}", {"keepdims": 0})
        for kind, short in (("ReduceMin", "low"), ("ReduceMax", "high"))
        for name in tensors
    ]
    # a pooling over everything is the mean per channel, and reads the same in every operator set
    nodes += [("GlobalAveragePool", name, f"mean:{name}", {}) for name in inputs]
    del twin.graph.output[:]
    for operator, source, target, attributes in nodes:
        twin.graph.node.append(onnx.helper.make_node(operator, [source], [target], **attributes))
        twin.graph.output.append(onnx.helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, None))
    return twin
