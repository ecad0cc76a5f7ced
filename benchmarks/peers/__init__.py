"""Other quantizers beside ours: the same network, the same photos, one interleaved run. Never part of the install.

A peer is one file here with two functions: ``load()`` imports its packages, which is not timed, and
``quantize(source, photos, folder)`` turns the float32 ONNX file and photos (N, C, H, W) into a file of its own:
.onnx, .xml (OpenVINO) or .pt2 (torch). A peer's file imports nothing of ours at its top, and what it needs runs in a
process of its own: with this Python, or with that of a venv where the other packages are (``--python``).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One row of the table: the module here that quantizes, where it runs, and what a reader should know of it."""

    module: str
    tells: str
    elsewhere: bool = False  # needs packages that are not ours
    engine: str = ""  # of `compress quantize`, for ours
    runtime: str = "ort"  # that our file is made for


PEERS = {
    "ort_default": Peer("ort_default", "onnxruntime quantize_static as it comes: int8 maps, weights per tensor"),
    "ort_u8s8": Peer("ort_u8s8", "onnxruntime quantize_static, uint8 maps, weights per channel"),
    "inc": Peer("inc", "neural-compressor static PT2E as it comes, compiled by Inductor"),
    "pt2e": Peer("pt2e", "torchao PT2E, X86InductorQuantizer, compiled by Inductor"),
    "nncf_onnx": Peer("nncf_onnx", "NNCF on ONNX, mixed preset", elsewhere=True),
    "nncf_openvino": Peer("nncf_openvino", "NNCF on OpenVINO, mixed preset", elsewhere=True),
    "aimet": Peer("aimet", "AIMET on ONNX as it comes, exported as QDQ", elsewhere=True),
    "mct": Peer(
        "mct", "Model Compression Toolkit on torch, exported as fake quantization: float weights", elsewhere=True
    ),
    "ours": Peer("", "compress quantize --dtype int8"),
    "ours_openvino": Peer("", "compress quantize --dtype int8 --runtime openvino", runtime="openvino"),
    "ours_pt2e": Peer("", "compress quantize --dtype int8 --engine pt2e", engine="pt2e"),
    "ours_inc": Peer("", "compress quantize --dtype int8 --engine inc", engine="inc"),
}
DEFAULT = ("ort_default", "inc", "nncf_onnx", "nncf_openvino", "pt2e", "aimet", "mct", "ours")
