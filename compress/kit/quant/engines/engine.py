"""What both engines share: images in one by one; their plan through our writer, with the same report as ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.errors import DataError, UsageError
from compress.core.whole import written_whole
from compress.kit.graph import sqnr
from compress.kit.quant.plan import Choice, Plan
from compress.kit.quant.policy import Style, style_for
from compress.kit.quant.prepare import check_quantizable, prepare_graph
from compress.kit.quant.quantize import QuantReport, report, write
from compress.kit.ship.runtime import open_session, read_onnx

Advance = Callable[[], None]
Image = NDArray[np.float32]  # (1, C, H, W)


@dataclass(frozen=True)
class Chosen:
    """What an engine chose: a plan for the prepared graph; ``first`` of the ``images`` it saw."""

    plan: Plan
    first: Image
    images: int


Choose = Callable[[onnx.ModelProto, Style, dict[str, Choice]], Chosen]


def quantize_by(choose: Choose, source: Path, target: Path, runtime: str, exclude: Sequence[str]) -> QuantReport:
    """Prepare a file, let ``choose`` plan it for what pays in ``runtime`` (see ``style_for``), write it, compare.

    ``exclude`` names nodes to leave in float32.

    Raises:
        ArtifactError: If the source is no float32 ONNX file, or holds nothing to quantize.
        UsageError: If source and target are one file.
    """
    if source.resolve() == target.resolve():
        raise UsageError(f"source and target are one file, '{source.name}'")
    model = read_onnx(source)
    check_quantizable(source.name, model)
    prepared = prepare_graph(model)
    keep = {name: Choice("float32", "excluded by name") for name in exclude}
    chosen = choose(prepared, style_for(prepared, runtime)[0], keep)
    with tempfile.TemporaryDirectory() as folder, written_whole(target) as scratch:
        ready = Path(folder) / "prepared.onnx"
        onnx.save(prepared, ready)
        write(prepared, chosen.plan, scratch)
        feed = {prepared.graph.input[0].name: chosen.first}
        first, second = (open_session(path).run(None, feed)[0] for path in (ready, scratch))
        return report(prepared, chosen.plan, source, scratch, chosen.images, sqnr(first, second))


def singly(feeds: Iterable[Mapping[str, NDArray[Any]]], name: str) -> Iterator[Image]:
    """Yield the images of batches one by one, each (1, C, H, W), so that batch size changes nothing.

    Raises:
        DataError: If there is none, or one holds values that aren't finite.
        UsageError: If a batch has no such input, or its images aren't of the size of the first.
    """
    shape: tuple[int, ...] = ()
    for feed in feeds:
        if name not in feed:
            raise UsageError(f"the network reads '{name}', a calibration batch holds {', '.join(feed) or 'nothing'}")
        for image in feed[name]:
            shape = shape or image.shape
            if len(image.shape) != 3 or image.shape != shape:
                raise UsageError(f"calibration images want one size, found {list(shape)} and {list(image.shape)}")
            if not np.isfinite(image).all():
                raise DataError("a calibration image holds values that aren't finite")
            yield np.ascontiguousarray(image[None], np.float32)
    if not shape:
        raise DataError("there is no image to calibrate with", hint="give --data a folder with photos")
