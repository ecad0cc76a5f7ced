"""Weights that an ONNX file keeps in other files: only ever read from the file's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path, PureWindowsPath

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from compress.core.errors import ArtifactError
from compress.kit.ship.dtypes import dtype_bits, dtype_name

# where a tensor may hold its numbers other than as bytes
_NUMBERS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def check_external(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without the weights it keeps elsewhere, and check that those lie in its own folder.

    A file that names others can be made to read any file of this machine (absolute paths, "..", links), to wait for a
    pipe forever, or to ask for more bytes than there are.

    Returns:
        The model; its external tensors hold no data yet.

    Raises:
        ArtifactError: If it is no ONNX file, if external data is outside the folder, absent or cut short, or if a
            tensor, wherever its numbers are, has more or fewer of them than its shape says.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    # damaged bytes make the parser fail in any way it likes
    except Exception as error:
        found = " ".join(str(error).split())[:160] or type(error).__name__
        raise ArtifactError(f"'{path.name}' is no ONNX file: {found}", hint="write or fetch it again") from error
    for tensor in model_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _check(path, tensor)
        else:
            _check_held(path, tensor)
    return model


def external_files(path: Path) -> dict[str, int]:
    """Return the other files an ONNX file keeps weights in: bytes of each, by name relative to its folder.

    Raises:
        ArtifactError: As ``check_external``.
    """
    tensors = model_tensors(check_external(path))
    names = {_entries(tensor)["location"] for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL}
    return {name: (path.parent / name).stat().st_size for name in sorted(names)}


def model_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor a model stores: initialisers and attributes, those of sub-graphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def sub_graphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs a node holds: the branches of an If, the body of a Loop."""
    return [
        graph for entry in node.attribute for graph in (*((entry.g,) if entry.HasField("g") else ()), *entry.graphs)
    ]


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: list[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for entry in node.attribute:
            yield from (*((entry.t,) if entry.HasField("t") else ()), *entry.tensors)
            sparse = (*((entry.sparse_tensor,) if entry.HasField("sparse_tensor") else ()), *entry.sparse_tensors)
            for tensor in sparse:
                yield from (tensor.values, tensor.indices)
        for graph in sub_graphs(node):
            yield from _of_graph(graph)


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check(path: Path, tensor: TensorProto) -> None:
    entries = _entries(tensor)
    location = entries.get("location", "")
    what = f"'{path.name}' keeps tensor '{tensor.name}' in '{location}'"
    beside = f"put its data file beside {path.name}"
    if _leads_out(path.parent, location):
        raise ArtifactError(f"{what}, which is not inside its own folder: it was not read", hint=beside)
    held = _size(path.parent / location)
    if held is None:
        raise ArtifactError(f"{what}, and there is no such file", hint=beside)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", held - offset))
    except ValueError as error:
        raise ArtifactError(f"{what} at a place that is no number", hint="write or fetch it again") from error
    if min(offset, length) < 0 or offset + length > held:
        raise ArtifactError(f"{what}, bytes {offset} to {offset + length}, and that file has {held}",
                            hint="fetch both files again")  # fmt: skip
    if length != _bytes(tensor):
        raise ArtifactError(f"{what} as {length} bytes, its shape {list(tensor.dims)} wants {_bytes(tensor)}",
                            hint="write or fetch it again")  # fmt: skip


def _check_held(path: Path, tensor: TensorProto) -> None:
    """Check that a tensor inside the file has as many numbers as its shape says: onnx's own checker doesn't."""
    if tensor.HasField("raw_data"):
        held, wanted = len(tensor.raw_data), _bytes(tensor)
    else:
        held = sum(len(getattr(tensor, field)) for field in _NUMBERS)
        bits = dtype_bits(dtype_name(tensor.data_type))
        # two or four a field, or two fields for each
        wanted = _bytes(tensor) if 0 < bits < 8 else prod(tensor.dims) * (2 if _complex(tensor) else 1)
    if min(tensor.dims, default=0) < 0 or held != wanted:
        raise ArtifactError(
            f"'{path.name}' is no ONNX network: tensor '{tensor.name}' of shape {list(tensor.dims)} wants {wanted} "
            f"{'bytes' if tensor.HasField('raw_data') else 'numbers'} and has {held}",
            hint="write or fetch it again",
        )


def _complex(tensor: TensorProto) -> bool:
    return dtype_name(tensor.data_type).startswith("complex")


def _bytes(tensor: TensorProto) -> int:
    """Bytes that a tensor of that shape takes; -1 where a side is negative."""
    if min(tensor.dims, default=0) < 0:
        return -1
    values: int = prod(tensor.dims)
    return -(-values * dtype_bits(dtype_name(tensor.data_type)) // 8)


def _size(file: Path) -> int | None:
    """Bytes of a plain file; None where there is none."""
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError:  # a name no file can have
        return None


def _leads_out(folder: Path, location: str) -> bool:
    """Whether a location is absolute, goes up, or follows a link out of the folder; a Windows path counts too."""
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.drive or windows.root or ".." in windows.parts:
        return True
    try:
        return not (folder / location).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a name too long, links in a circle
        return True
