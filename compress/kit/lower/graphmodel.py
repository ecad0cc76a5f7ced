"""TF.js graph models on disk: model.json and its shards of weights, read, tidied, edited and written."""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError

MODEL = "model.json"
SHARD = 4 * 1024 * 1024  # bytes; the largest file every browser caches
Array = NDArray[Any]
Stored = Mapping[str, Any]  # a node of the topology, as JSON has it

# attributes that TensorFlow's optimizer leaves and nobody reads
_IDLE = ("num_host_args", "use_cudnn_on_gpu", "filter_format")


@dataclass(frozen=True)
class GraphModel:
    """A graph model in memory: nodes as JSON has them, weights by name, and what else model.json says."""

    nodes: tuple[Stored, ...]
    weights: dict[str, Array]
    head: dict[str, Any]  # format, versions, signature, userDefinedMetadata

    @property
    def input(self) -> str:
        """Name of the one input node."""
        return _node_of(next(iter(self.head["signature"]["inputs"].values()))["name"])

    @property
    def output(self) -> str:
        """Name of the one output node."""
        return _node_of(next(iter(self.head["signature"]["outputs"].values()))["name"])


def import_converter() -> None:
    """Import tensorflowjs without the advertisement of a package it needs, which asks for a notebook."""
    os.environ.setdefault("TFDF_DISABLE_WELCOME_MESSAGE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflowjs  # noqa: F401


def read(folder: Path) -> GraphModel:
    """Read a graph model, its weights dequantized to float32.

    Raises:
        ArtifactError: If a file is absent, cut short, or no graph model.
    """
    try:
        found = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        weights: dict[str, Array] = {}
        for group in found["weightsManifest"]:
            content = b"".join((folder / path).read_bytes() for path in group["paths"])
            weights |= _unpacked(group["weights"], content)
        nodes = tuple(found["modelTopology"]["node"])
        head = {key: value for key, value in found.items() if key not in ("modelTopology", "weightsManifest")}
        head["versions"] = found["modelTopology"].get("versions", {})
        return GraphModel(nodes, weights, head)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} is no TF.js graph model: {type(error).__name__} {error}",
                            hint="export it again") from error  # fmt: skip


def _unpacked(entries: Iterable[Mapping[str, Any]], content: bytes) -> dict[str, Array]:
    found, offset = {}, 0
    for entry in entries:
        quantization = entry.get("quantization", {})
        kind = np.dtype(quantization.get("dtype", entry["dtype"]))
        count = int(np.prod(entry["shape"], dtype=np.int64))
        stored = np.frombuffer(content, kind, count, offset).reshape(entry["shape"])
        offset += count * kind.itemsize
        found[entry["name"]] = _dequantized(stored, quantization)
    if offset != len(content):
        raise ValueError(f"the shards hold {len(content)} bytes, the manifest names {offset}")
    return found


def _dequantized(stored: Array, quantization: Mapping[str, Any]) -> Array:
    if "scale" in quantization:
        # as TF.js does: in float64, rounded to float32 once
        return np.asarray(stored * quantization["scale"] + quantization["min"], np.float32)
    return stored.astype(np.float32) if stored.dtype == np.float16 else stored


def write(model: GraphModel, folder: Path, *, stored_as: Mapping[str, str] | None = None) -> None:
    """Write a graph model; equal models give equal bytes.

    Args:
        model: The model.
        folder: Where the files go; made if absent.
        stored_as: How weights are stored, by name: "float16", "uint16" or "uint8"; the others stay as they are.
    """
    import_converter()
    from tensorflowjs.write_weights import write_weights

    folder.mkdir(parents=True, exist_ok=True)
    types: dict[str, list[str]] = {}
    for name, kind in sorted((stored_as or {}).items()):
        types.setdefault(kind, []).append(name)
    entries = [{"name": name, "data": np.asarray(values, order="C")} for name, values in model.weights.items()]
    manifest = write_weights([entries], str(folder), SHARD, write_manifest=False, quantization_dtype_map=types)
    head = {key: value for key, value in model.head.items() if key != "versions"}
    topology = {"node": list(model.nodes), "versions": model.head["versions"]}
    whole = {**head, "modelTopology": topology, "weightsManifest": manifest}
    (folder / MODEL).write_text(json.dumps(whole, separators=(",", ":"), default=float), encoding="utf-8")


def tidied(model: GraphModel, *, input: str, output: str) -> GraphModel:
    """Return the same network with short names, its input and output named as given, and nothing idle inside.

    Whole numbers that occur many times (axes, window bounds) are kept once.
    """
    names = {model.input: input, model.output: output}
    short = "n" if not {input[:1], output[:1]} & {"n"} else "node_"
    first: dict[tuple[Any, ...], str] = {}
    kept: list[Stored] = []
    weights: dict[str, Array] = {}
    for node in _in_order(model):
        value = model.weights.get(node["name"])
        mark = (node["name"],) if value is None or value.dtype != np.int32 else (value.shape, value.tobytes())
        if mark in first:
            names[node["name"]] = first[mark]
            continue
        name = names.setdefault(node["name"], f"{short}{len(kept)}")
        first[mark] = name
        kept.append(_slim(node, name, names))
        if value is not None:
            weights[name] = value
    return GraphModel(tuple(kept), weights, _head(model, names))


def _head(model: GraphModel, names: Mapping[str, str]) -> dict[str, Any]:
    signature = {
        side: {
            names[_node_of(port["name"])]: {**port, "name": f"{names[_node_of(port['name'])]}:0"}
            for port in model.head["signature"][side].values()
        }
        for side in ("inputs", "outputs")
    }
    return {**model.head, "signature": signature}


def _in_order(model: GraphModel) -> list[Stored]:
    """Sort the nodes so that each follows what it reads, in an order that depends on the graph alone."""
    by_name = {node["name"]: node for node in model.nodes}
    done: dict[str, Stored] = {}
    pending = [model.output, model.input]
    while pending:
        node = by_name[pending[-1]]
        missing = [name for name in map(_node_of, _read(node)) if name not in done]
        if missing:
            pending.extend(reversed(missing))
        else:
            done.setdefault(pending.pop(), node)
    return list(done.values())


def _slim(node: Stored, name: str, names: Mapping[str, str]) -> Stored:
    attributes = {
        key: value
        for key, value in sorted(node.get("attr", {}).items())
        if not key.startswith("_") and key not in _IDLE and value not in ({"list": {}}, {})
    }
    slim: dict[str, Any] = {"name": name, "op": node["op"]}
    if _read(node):
        slim["input"] = [_renamed(each, names) for each in _read(node)]
    return {**slim, "attr": attributes}


def _read(node: Stored) -> list[str]:
    """What a node reads; "^name" only says what must run before it, and nothing here has effects."""
    return [reference for reference in node.get("input", ()) if not reference.startswith("^")]


def _renamed(reference: str, names: Mapping[str, str]) -> str:
    node, _, port = reference.partition(":")
    return names[node] + (f":{port}" if port else "")


def _node_of(reference: str) -> str:
    return reference.partition(":")[0]


# where the output channels lie in the filter of an operation, its second input
_CHANNELS = {
    "Conv2D": (3,), "_FusedConv2D": (3,), "DepthwiseConv2dNative": (2, 3), "FusedDepthwiseConv2dNative": (2, 3),
    "Conv2DBackpropInput": (2,), "MatMul": (1,), "_FusedMatMul": (1,), "BatchMatMulV2": (1,),
}  # fmt: skip


def stored(model: GraphModel, kind: str, *, per_channel: bool = True) -> tuple[GraphModel, dict[str, str]]:
    """Prepare a model for storing its weights in fewer bits; biases and other vectors stay float32.

    TF.js knows one range for a whole tensor. So per channel, the filter of a convolution is stored divided by the
    largest weight of each of its output channels, and a product with those follows it in the graph. A filter that
    lies nearer to the original without it (one of one-sided channels, say) is left as it is.

    Args:
        model: float32 inside.
        kind: "float16", "uint16" or "uint8".
        per_channel: Give every output channel a range of its own; float16 has no use for it.

    Returns:
        The model to write, and how ``write`` should store each weight.
    """
    big = {name: kind for name, values in model.weights.items() if values.dtype == np.float32 and values.ndim >= 2}
    if kind == "float16" or not per_channel:
        return model, big
    nodes: list[Stored] = []
    weights, scaled = dict(model.weights), dict[str, str]()
    axes = _channel_axes(model, big)
    for node in model.nodes:
        nodes.append(node)
        name = node["name"]
        if name in axes and (found := _scales(weights[name], axes[name], kind)) is not None:
            weights[name], weights[f"{name}s"] = weights[name] / found, found
            nodes += _product(name, found)
            scaled[name] = f"{name}m"
    nodes = [node if node["name"] in scaled.values() else _reading(node, scaled) for node in nodes]
    return replace(model, nodes=tuple(nodes), weights=weights), big


def _channel_axes(model: GraphModel, big: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Where the output channels of each weight lie; weights that are read in two ways are left out."""
    found: dict[str, set[tuple[int, ...]]] = {name: set() for name in big}
    for node in model.nodes:
        for place, reference in enumerate(node.get("input", ())):
            if reference in found:
                axes = _CHANNELS.get(node["op"], ()) if place == 1 else ()
                if node["op"] in ("MatMul", "_FusedMatMul") and node["attr"].get("transpose_b", {}).get("b"):
                    axes = (0,)
                fits = axes and max(axes) < model.weights[reference].ndim
                found[reference].add(axes if fits and node["op"] != "BatchMatMulV2" else ())
    return {name: axes.pop() for name, axes in found.items() if len(axes) == 1 and axes != {()}}


def _scales(weight: Array, axes: tuple[int, ...], kind: str) -> Array | None:
    """Return the largest weight of each channel, shaped to multiply; None where it does not bring values nearer."""
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    largest = np.abs(weight).max(others, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32)
    plain = np.square(_rounded(weight, kind) - weight).mean()
    own = np.square(_rounded(weight / scale, kind) * scale - weight).mean()
    return scale if own < plain else None


def _rounded(values: Array, kind: str) -> Array:
    import_converter()
    from tensorflowjs.quantization import dequantize_weights, quantize_weights

    rounded: Array = dequantize_weights(*quantize_weights(values, np.dtype(kind).type))
    return rounded


def _product(name: str, scale: Array) -> list[Stored]:
    shape = {"dim": [{"size": str(side)} for side in scale.shape]}
    floating = {"type": "DT_FLOAT"}
    tensor = {"tensor": {"dtype": "DT_FLOAT", "tensorShape": shape}}
    return [
        {"name": f"{name}s", "op": "Const", "attr": {"dtype": floating, "value": tensor}},
        {"name": f"{name}m", "op": "Mul", "input": [name, f"{name}s"], "attr": {"T": floating}},
    ]


def _reading(node: Stored, instead: Mapping[str, str]) -> Stored:
    if not any(reference in instead for reference in node.get("input", ())):
        return node
    return {**node, "input": [instead.get(reference, reference) for reference in node["input"]]}


def text(attribute: Mapping[str, Any]) -> str:
    """Read an attribute that holds text, which JSON has in base64."""
    return base64.b64decode(attribute["s"]).decode()


def as_text(value: str) -> dict[str, str]:
    """Make an attribute that holds text."""
    return {"s": base64.b64encode(value.encode()).decode()}
