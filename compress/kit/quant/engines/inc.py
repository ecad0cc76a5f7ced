"""Intel's neural-compressor: PT2E with running ranges, or what its accuracy-driven autotune settles on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from torch import fx

from compress.core.machine import require
from compress.kit.quant.calibrate import Feed
from compress.kit.quant.engines.engine import Advance, Chosen, Image, quantize_by, singly
from compress.kit.quant.engines.traced import Traced, trace
from compress.kit.quant.engines.watched import Watched, plan_of, watch
from compress.kit.quant.plan import Choice, Plan
from compress.kit.quant.policy import Style
from compress.kit.quant.quantize import QuantReport, write
from compress.kit.ship.runtime import open_session, quiet

Score = Callable[[Callable[[Image], Image]], float]


def quantize_inc(
    source: Path,
    target: Path,
    batches: Iterable[Feed],
    *,
    runtime: str = "ort",
    exclude: Sequence[str] = (),
    score: Score | None = None,
    tolerance: float = 0.005,
    advance: Advance | None = None,
) -> QuantReport:
    """Quantize an ONNX file with the decisions of neural-compressor's static PT2E quantization.

    With ``score``, its autotune tries symmetric and plain grids, histograms and running ranges, and takes the first
    whose file loses no more than ``tolerance``, else the best of the four.

    Args:
        source: A float32 ONNX file of one image input; it is only read.
        target: Where the int8 file goes, whole or not at all.
        batches: Inputs by name, float32 (N, C, H, W), all of one size; seen once, one image at a time. For autotune
            they are kept on disk.
        runtime: Decides which maps are rounded, see ``style_for``.
        exclude: Names of nodes to leave in float32.
        score: Scores what maps an image (1, C, H, W) to the shipped picture, once for the float32 file and once for
            every file that autotune tries, in ONNX Runtime; higher is better.
        tolerance: Share of the float32 file's score that may be lost.
        advance: Called after each image.

    Raises:
        ArtifactError: If the source is no float32 ONNX file, or holds nothing to quantize.
        CompressError: As ``plan_inc`` does.
    """

    def choose(prepared: onnx.ModelProto, style: Style, keep: dict[str, Choice]) -> Chosen:
        return plan_inc(
            prepared, batches, style=style, keep=keep, score=score, tolerance=tolerance, advance=advance
        )  # fmt: skip

    return quantize_by(choose, source, target, runtime, exclude)


def plan_inc(
    prepared: onnx.ModelProto,
    batches: Iterable[Feed],
    *,
    style: Style,
    keep: Mapping[str, Choice] | None = None,
    score: Score | None = None,
    tolerance: float = 0.005,
    advance: Advance | None = None,
) -> Chosen:
    """Plan a prepared graph (see ``prepare_graph``) as neural-compressor would; the rest as ``quantize_inc``.

    ``keep``: choices that win over the engine's, by node name.

    Raises:
        MissingExtraError: If neural-compressor is not installed.
        UsageError: If the graph can't be traced, a batch doesn't fit it, or ``keep`` names no node.
        DataError: If there is no image, or one makes values that aren't finite.
    """
    require("inc")
    images = singly(batches, prepared.graph.input[0].name)
    with tempfile.TemporaryDirectory() as folder:
        first = next(images)
        session = _Session(prepared, trace(prepared, first.shape), style, keep or {}, Path(folder))
        every = _told(chain([first], images), advance)
        if score is None:
            session.calibrate(session.prepare(), every)
        else:
            session.tune(_Spool(Path(folder) / "images", every), score, tolerance)
        assert session.plan is not None
        return Chosen(session.plan, first, session.images)


def _told(images: Iterable[Image], advance: Advance | None) -> Iterator[Image]:
    for image in images:
        yield image
        if advance is not None:
            advance()


class _Spool:
    """Images kept on disk, to be gone through again."""

    def __init__(self, path: Path, images: Iterable[Image]) -> None:
        self.path = path
        self.shape: tuple[int, ...] = ()
        with path.open("wb") as file:
            for image in images:
                self.shape = image.shape
                file.write(image.tobytes())

    def __iter__(self) -> Iterator[Image]:
        size = 4 * int(np.prod(self.shape))
        with self.path.open("rb") as file:
            while raw := file.read(size):
                yield np.frombuffer(raw, np.float32).reshape(self.shape).copy()


class _Session:
    """One network before neural-compressor; ``plan`` is what the last calibration decided."""

    def __init__(
        self, prepared: onnx.ModelProto, traced: Traced, style: Style, keep: Mapping[str, Choice], folder: Path
    ) -> None:
        self.prepared, self.traced, self.style, self.keep, self.folder = prepared, traced, style, keep, folder
        self.plan: Plan | None = None
        self.images = 0
        # what its own export sets on a graph
        self.module = cast("Any", traced.module)
        self.module._exported, self.module.dynamic_shapes = True, None

    def prepare(self) -> fx.GraphModule:
        """Put the observers of its default settings into the traced graph."""
        with quiet():
            from neural_compressor.torch.quantization import (  # type: ignore[import-untyped]
                StaticQuantConfig,
                prepare,
            )

            prepared: fx.GraphModule = prepare(self.module, StaticQuantConfig())
            return prepared

    def calibrate(self, module: fx.GraphModule, images: Iterable[Image]) -> Watched:
        """Run images through its observers and ours, and plan by what they saw."""
        watched = watch(self.traced, module, self.prepared, self.style, self.keep)
        self.images = 0
        for image in images:
            watched.see(image)
            self.images += 1
        self.plan = plan_of(watched, self.prepared, self.style)
        return watched

    def tune(self, images: Iterable[Image], score: Score, tolerance: float) -> None:
        """Let its autotune choose the settings."""
        with quiet():
            from neural_compressor.torch.quantization import StaticQuantConfig, TuningConfig, autotune

            path = self.folder / "prepared.onnx"
            onnx.save(self.prepared, path)
            baseline = self._score(path, score)

            def judged(module: Any) -> float:
                # it divides by the score of the float network, which may be 0 or below: hand it shares of 1
                if not getattr(module, "is_quantized", False):
                    return 1.0
                assert self.plan is not None
                write(self.prepared, self.plan, self.folder / "trial.onnx")
                change = self._score(self.folder / "trial.onnx", score) - baseline
                return 1.0 + change / (abs(baseline) or 1.0)

            autotune(
                self.module,
                TuningConfig(config_set=[StaticQuantConfig.get_config_set_for_tuning()], tolerable_loss=tolerance),
                eval_fn=judged,
                run_fn=lambda module: self.calibrate(module, images),
            )

    def _score(self, path: Path, score: Score) -> float:
        session = open_session(path)
        name = session.get_inputs()[0].name
        return score(lambda image: session.run(None, {name: image})[0])
