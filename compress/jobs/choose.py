"""How one network is to be quantized: ranges, devices, layers kept wide, layers in 4 bits, all on selection photos."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.console import log, progress
from compress.core.errors import UsageError
from compress.core.types import ImageSpec
from compress.jobs.mixed import by_harm, four_bit_material, mix
from compress.jobs.options import Shrinking
from compress.jobs.selection import Judged, Selection, increase
from compress.jobs.tune import Cooked, Material, cook, tune
from compress.jobs.widen import costs, ranked, widen
from compress.kit.data.sets import Dataset, spread_indices
from compress.kit.images import prepare
from compress.kit.quant.calibrate import Calibration, calibrate
from compress.kit.quant.plan import INTEGER, Choice, Form
from compress.kit.quant.policy import Style, style_for
from compress.kit.quant.sensitivity import Sensitivity, sensitivities

FORMS: dict[str, Form] = {
    "int8": "int8", "int4": "int4", "mixed": "int8",
    "int8w": "int8w", "int4w": "int4w", "float16": "float16w", "bfloat16": "bfloat16w",
}  # fmt: skip
_PROBED = 4  # photos that layers are probed on
_LOOKED_AT = 16  # photos that better rounding looks at
_CHECKED = 8  # layers, the worst, whose cost is measured too

NOTHING_SEEN = Calibration({}, {}, 0, {})


class Chooser:
    """Chooses a plan for a prepared graph.

    Args:
        options: What the user wants.
        prepared: The graph's file.
        spec: Input of the network at the size it is calibrated at.
    """

    def __init__(self, options: Shrinking, prepared: Path, spec: ImageSpec) -> None:
        self.options, self.prepared, self.spec = options, prepared, spec
        self.form = FORMS[options.dtype]
        self.graph = onnx.load(prepared)
        self.style, self._why = _style(self.graph, options)
        self.limit = share(options.max_loss_increase, "max-loss-increase")
        self.most_bytes = size_of(options.max_bytes, "max-bytes")
        if self.most_bytes is not None and options.dtype != "mixed":
            raise UsageError("--max-bytes is for --dtype mixed", hint="give --dtype mixed")
        if options.activations != "float32" and self.form in INTEGER:
            raise UsageError(f"--dtype {options.dtype} rounds maps to 8 bits, --activations float16 was asked",
                             hint="give --dtype int8w, int4w or float16 with it")  # fmt: skip

    @property
    def styled(self) -> dict[str, str]:
        """Which maps are 8 bits and why, as the manifest keeps it."""
        return {"style": self.style, "style_reason": self._why}

    def material(self, seen: Calibration) -> Material:
        """What every plan starts from."""
        keep = {name: Choice("float32", "excluded by name") for name in self.options.exclude}
        keep |= {name: Choice(self.form, "included by name") for name in self.options.include}
        size = self.spec.height, self.spec.width
        half = self.options.activations == "float16"
        return Material(self.graph, seen, self.style, self.form, keep, self.options.safe_weights, half, size)

    def _with_photos(self, seen: Calibration, photos: Dataset) -> Material:
        """The same, with the photos that better rounding looks at."""
        few = spread_indices(len(photos), _LOOKED_AT)
        return replace(
            self.material(seen),
            feeds=lambda: self.feeds(photos, few),
            calibrate=lambda graph: self._calibrated(graph, photos),
        )

    def _calibrated(self, graph: onnx.ModelProto, photos: Dataset) -> Calibration:
        with tempfile.TemporaryDirectory() as folder, progress("calibrate again", len(photos)) as advance:
            path = Path(folder) / "evened.onnx"
            onnx.save(graph, path)
            return calibrate(path, self.feeds(photos, range(len(photos))), advance=advance)

    def unseen(self) -> Cooked:
        """The plan as far as it is known before any photo is looked at; enough where weights alone are rounded."""
        return cook(self.material(NOTHING_SEEN))

    def choose(self, seen: Calibration, photos: Dataset, selection: Selection) -> tuple[Cooked, dict[str, Any]]:
        """Choose on the selection photos; returns the plan and what the manifest keeps of the choice."""
        assert self.form in INTEGER, "weights alone are not chosen on photos"
        material = self._with_photos(seen, photos)
        cooked, judged, trail = tune(material, selection, self.options.tune, self.options.method)
        notes: dict[str, Any] = {"settings": asdict(cooked.recipe), "tried": trail}
        material = cooked.settled(material)
        if self.options.dtype == "mixed":
            if self.options.tune != "none":
                cooked = replace(cooked, recipe=replace(cooked.recipe, rounding="compensate"))
            found = self._probe(four_bit_material(material, cooked), photos, cooked)
            order = by_harm(found, cooked)
            cooked, judged, mixed = mix(
                material, cooked, selection, order, most_bytes=self.most_bytes, limit=self.limit
            )
            notes |= {
                "settings": asdict(cooked.recipe),
                "mixed": mixed,
                "four_bit_sensitivity": [asdict(each) for each in found],
            }
        elif self.options.sensitivity or self.limit is not None:
            found = self._probe(material, photos, cooked)
            notes["sensitivity"] = self._checked(found, material, cooked, judged, selection)
            if self.limit is not None:
                cooked, judged, notes["widened"] = self._widen(found, material, cooked, judged, selection)
        notes |= {"distance": judged.distance, "selection": selection.data.fingerprint,
                  "selection_loss_increase": increase(selection.original.losses, judged.losses)}  # fmt: skip
        return cooked, notes

    def _probe(self, material: Material, photos: Dataset, cooked: Cooked) -> list[Sensitivity]:
        """What each layer of the material's plan does to the picture."""
        probed = cook(material, cooked.recipe)
        indices = spread_indices(len(photos), _PROBED)
        with progress("probe layers", len(indices)) as advance:
            return sensitivities(probed.base, probed.plan, self.feeds(photos, indices), corrected=probed.graph,
                                 seed=self.options.seed, advance=advance)  # fmt: skip

    def feeds(self, photos: Dataset, indices: Iterable[int]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Photos as the graph reads them, (1, C, H, W), one at a time."""
        for index in indices:
            yield {self.spec.name: prepare(photos.original(index)["image"], self.spec)[None]}

    def _checked(
        self, found: list[Sensitivity], material: Material, cooked: Cooked, judged: Judged, selection: Selection
    ) -> list[dict[str, Any]]:
        """Add to the worst layers what the task's loss says of each when it alone stays in float."""
        records = [asdict(each) for each in found]
        for record in records[:_CHECKED]:
            keep = {**material.keep, record["name"]: Choice("float32", "tried")}
            tried = cook(replace(material, keep=keep), cooked.recipe)
            alone = selection.judge(tried.graph, tried.plan)
            record["loss_given_back"] = -increase(judged.losses, alone.losses)
            record["distance_given_back"] = judged.distance - alone.distance
        return records

    def _widen(
        self, found: list[Sensitivity], material: Material, cooked: Cooked, judged: Judged, selection: Selection
    ) -> tuple[Cooked, Judged, dict[str, Any]]:
        assert self.limit is not None
        image = prepare(selection.data.original(0)["image"], self.spec)[None]
        order = ranked(found, costs(cooked, self.prepared, image))
        result = widen(material, cooked, judged, selection, order, self.limit)
        if not result.holds:
            log.warning("no set of layers kept wide holds the loss within %+.2f %%", 100 * self.limit)
        notes = {"limit": self.limit, "kept": list(result.kept), "holds": result.holds, "trail": result.trail}
        return result.cooked, result.judged, notes


def _style(graph: onnx.ModelProto, options: Shrinking) -> tuple[Style, str]:
    if options.style != "auto":
        return options.style, "as asked"
    return style_for(graph, options.runtime)


def share(text: str, flag: str) -> float | None:
    """Read a share like 0.5% or 0.005; None for an empty text.

    Raises:
        UsageError: If it is neither.
    """
    value = _number(text.removesuffix("%"))
    if text and (value is None or not 0 <= value < 1000):
        raise UsageError(f"--{flag} is '{text}', wanted a share like 0.5% or 0.005")
    return value / 100 if value is not None and text.endswith("%") else value


def size_of(text: str, flag: str) -> int | None:
    """Read bytes like 6.4MB, 500kB or 20000; None for an empty text. MB are 10^6 bytes.

    Raises:
        UsageError: If it is none of these.
    """
    factors = {"MB": 1e6, "kB": 1e3, "B": 1.0}
    unit = next((unit for unit in factors if text.endswith(unit)), "")
    value = _number(text.removesuffix(unit))
    if text and (value is None or value <= 0):
        raise UsageError(f"--{flag} is '{text}', wanted a size like 6.4MB, 500kB or 20000")
    return None if value is None else int(value * factors.get(unit, 1.0))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
