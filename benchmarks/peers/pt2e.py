"""torchao's PT2E with X86InductorQuantizer: what its documentation shows for x86, weights folded to int8.

The network is traced from the ONNX file (``compress.kit.quant.engines.traced``), so that this peer starts from the
graph that all the others get, and foreign files work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.feed import Photos


def load() -> None:
    """Import what quantizing needs."""
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # type: ignore[import-untyped]

    from compress.kit.quant.engines import pt2e  # noqa: F401

    assert torchao


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize at the size of the photos and save the exported program."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e  # type: ignore[import-untyped]

    from compress.kit.quant.engines.pt2e import observe

    prepared = observe(traced(source, photos))
    calibrate(prepared, photos)
    return saved(convert_pt2e(prepared), photos, folder)


def traced(source: Path, photos: Photos) -> Any:
    """Return the float32 file as a traced graph at the size of the photos."""
    import onnx

    from compress.kit.quant.engines.traced import trace
    from compress.kit.quant.prepare import prepare_graph

    return trace(prepare_graph(onnx.load(source)), (1, *photos.shape[1:]))


def calibrate(module: Any, photos: Photos) -> None:
    """Run every photo through a graph with observers."""
    import torch

    with torch.no_grad():
        for photo in photos:
            module(torch.from_numpy(photo[None]))


def saved(module: Any, photos: Photos, folder: Path) -> Path:
    """Export a converted graph to a file, without what it no longer reads and the photo it was traced with."""
    import torch

    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)
    with torch.no_grad():
        program = torch.export.export(module, (torch.from_numpy(photos[:1].copy()),))
    program.example_inputs = None
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"
