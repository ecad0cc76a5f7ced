"""What an ONNX file is made of: its tensors and what each is for, what stands around them, what goes in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from compress.kit.ship.dtypes import dtype_bits, dtype_name
from compress.kit.ship.external import model_tensors, sub_graphs
from compress.kit.ship.roles import LEARNED, Purpose, Role, purposes
from compress.kit.ship.wires import all_nodes, held_tensors, node_label, stored_tensors


@dataclass(frozen=True)
class Tensor:
    """A stored tensor.

    ``layer`` and ``operator`` are the name and the type of the node it is stored for: casts, dequantization and
    changes of shape in between are passed over. ``values`` counts numbers, two a byte where a byte packs two.
    """

    name: str
    layer: str
    operator: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    values: int
    bits: int  # a value
    bytes: int  # that it takes in the file

    @property
    def learned(self) -> bool:
        """Whether it holds what the network learned."""
        return self.role in LEARNED


@dataclass(frozen=True)
class Port:
    """An input or output: a side is a number, the name of a free side, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def free(self) -> tuple[str, ...]:
        """The sides that are free."""
        return tuple(side for side in self.shape if isinstance(side, str))


@dataclass(frozen=True)
class Anatomy:
    """An ONNX file taken apart; ``tensors`` largest first, ``overhead`` the bytes of everything else, by what it is."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: dict[str, int]  # by domain, "" is ONNX's own
    ir_version: int
    producer: str
    operators: dict[str, int]  # nodes by type, those of sub-graphs too
    tensors: tuple[Tensor, ...]
    overhead: dict[str, int]
    file_bytes: int  # with the files that hold external data
    external: dict[str, int]

    @property
    def values(self) -> int:
        """How many numbers the network learned."""
        return sum(tensor.values for tensor in self.tensors if tensor.learned)

    @property
    def float32_bytes(self) -> int:
        """Bytes of what was learned, every number as float32."""
        return 4 * self.values

    @property
    def stored_bytes(self) -> int:
        """Bytes of what was learned at the bits it is stored in, and nothing around it."""
        return sum(-(-tensor.values * tensor.bits // 8) for tensor in self.tensors if tensor.learned)

    @property
    def theoretical(self) -> float:
        """How many times smaller the stored numbers are than float32; 1 for a network without any."""
        return self.float32_bytes / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def real(self) -> float:
        """How many times smaller the whole file is than the bare numbers in float32."""
        return self.float32_bytes / self.file_bytes

    def bytes_by(self, field: Literal["dtype", "operator", "role"]) -> dict[str, int]:
        """Bytes of tensors by their dtype, operator or role, largest first."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[str(getattr(tensor, field))] += tensor.bytes
        return dict(sizes.most_common())


def dissect(model: onnx.ModelProto, file_bytes: int, external: dict[str, int] | None = None) -> Anatomy:
    """Take a model apart; it stays as it is.

    Args:
        model: With its weights, wherever they came from.
        file_bytes: Size of its file, in bytes, without other files.
        external: Sizes of the other files it keeps weights in, by name.
    """
    external = external or {}
    tensors = tuple(sorted(_tensors(model.graph), key=lambda tensor: (-tensor.bytes, tensor.name)))
    nodes = list(all_nodes(model.graph))
    stored = {tensor.name for tensor in model.graph.initializer}
    whole = file_bytes + sum(external.values())
    return Anatomy(
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in stored),
        outputs=tuple(_port(value) for value in model.graph.output),
        opsets={_domain(entry.domain): entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=dict(Counter(node.op_type for node in nodes).most_common()),
        tensors=tensors,
        overhead=_overhead(model, whole),
        file_bytes=whole,
        external=external,
    )


def payload(tensor: TensorProto) -> int:
    """Return the bytes a tensor's numbers take in the file, whatever field they are in."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return int(tensor.ByteSize() - _bare(tensor).ByteSize())


def _bare(tensor: TensorProto) -> TensorProto:
    """Everything of a tensor but its numbers."""
    return TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        doc_string=tensor.doc_string or None,
        external_data=tensor.external_data,
        metadata_props=tensor.metadata_props,
    )


def _tensors(graph: GraphProto) -> Iterator[Tensor]:
    stored = stored_tensors(graph)
    known = purposes(graph, stored)
    for name, tensor in stored.items():
        yield _tensor(tensor, name, known[name])
    nobody = Purpose(None, "constants")
    for sparse in graph.sparse_initializer:
        yield _tensor(sparse.values, sparse.values.name, nobody)
        yield _tensor(sparse.indices, f"{sparse.values.name} (places)", nobody)
    for node in graph.node:
        if node.op_type != "Constant":
            for held in held_tensors(node):
                yield _tensor(held, held.name or node_label(node), Purpose(node, "constants"))
        for inner in sub_graphs(node):
            yield from _tensors(inner)


def _tensor(tensor: TensorProto, name: str, purpose: Purpose) -> Tensor:
    dtype, values, reader = dtype_name(tensor.data_type), prod(tensor.dims), purpose.reader
    bits = dtype_bits(dtype)
    packed = _packed_bits(reader) if purpose.role == "weights" else 0
    if packed and bits > packed:
        values, bits = values * bits // packed, packed
    return Tensor(
        name=name,
        layer=node_label(reader) if reader else "",
        operator=reader.op_type if reader else "(nobody)",
        role=purpose.role,
        dtype=dtype,
        shape=tuple(tensor.dims),
        values=values,
        bits=bits,
        bytes=payload(tensor),
    )


def _packed_bits(reader: NodeProto | None) -> int:
    """Bits of a weight that an operator of ONNX Runtime unpacks from bytes by itself; 0 for all others."""
    if reader is None or reader.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
        return 0
    return next((entry.i for entry in reader.attribute if entry.name == "bits" and 0 < entry.i < 8), 4)


def _overhead(model: onnx.ModelProto, whole: int) -> dict[str, int]:
    """Bytes that hold no numbers of a tensor."""
    parts = {
        "nodes": sum(node.ByteSize() - sum(map(payload, _held(node))) for node in model.graph.node),
        "names and shapes of tensors": sum(entry.ByteSize() - payload(entry) for entry in model.graph.initializer),
        "inferred shapes": sum(value.ByteSize() for value in model.graph.value_info),
        "functions": sum(function.ByteSize() for function in model.functions),
    }
    rest = whole - sum(map(payload, model_tensors(model))) - sum(parts.values())
    return {name: size for name, size in (*parts.items(), ("other", rest)) if size > 0}


def _held(node: NodeProto) -> Iterator[TensorProto]:
    yield from held_tensors(node)
    for inner in sub_graphs(node):
        yield from inner.initializer
        for part in inner.node:
            yield from _held(part)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    sides = tuple(side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in tensor.shape.dim)
    return Port(value.name, dtype_name(tensor.elem_type), sides)
