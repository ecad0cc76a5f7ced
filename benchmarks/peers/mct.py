"""Sony's Model Compression Toolkit on torch, for the platform "default"; its ONNX keeps weights float, rounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.feed import Photos


def load() -> None:
    """Import what quantizing needs."""
    _without_vision_kernels()
    import model_compression_toolkit as mct  # type: ignore[import-not-found]

    assert mct


def _without_vision_kernels() -> None:
    """Let torchvision import beside the CPU build of torch, whose package index has no build of it.

    It fails on two operators of its own that are not compiled; image networks call neither.
    """
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _KEPT.append(library)


_KEPT: list[Any] = []  # a library that is let go takes its operators along


def quantize(source: Path, photos: Photos, folder: Path) -> Path:  # noqa: ARG001
    """Quantize the torch network, as FOLDER/network.json names it, with every photo given; it reads no ONNX."""
    import model_compression_toolkit as mct
    import torch

    def batches() -> Iterator[list[Any]]:
        for photo in photos:
            yield [torch.from_numpy(photo[None])]

    quantized, _ = mct.ptq.pytorch_post_training_quantization(_module(folder / "network.json"), batches)
    target = folder / "model.onnx"
    torch.onnx.export = partial(torch.onnx.export, dynamo=False)  # the exporter it was written for
    mct.exporter.pytorch_export_model(
        quantized, str(target), batches, quantization_format=mct.exporter.QuantizationFormat.FAKELY_QUANT
    )
    return target


def _module(record: Path) -> Any:
    """Rebuild the network that ships; our code for networks runs wherever torch does."""
    from safetensors.torch import load_file

    from compress.core.networks import find_network
    from compress.kit.ship.runtime import Shipped
    from compress.tasks import TASKS

    if not record.is_file():
        raise ValueError("it reads torch networks, and this one is a foreign ONNX file")
    known = json.loads(record.read_text(encoding="utf-8"))
    network = find_network(known["network"]).build(**known["options"])
    network.load_state_dict(load_file(known["weights"]), strict=False)  # step counters of batch norms aren't stored
    return Shipped(network, TASKS.get(known["task"]).activate).eval()
