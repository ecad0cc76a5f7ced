"""Element types of ONNX tensors by their everyday names, and how many bits a value of each takes."""

from __future__ import annotations

import re

from onnx import TensorProto

_EVERYDAY = {"float": "float32", "double": "float64"}
_BITS = re.compile(r"(?:int|float|complex)(\d+)")


def dtype_name(kind: int) -> str:
    """Return "float32", "int8", "int4", ... of a number of ``TensorProto.DataType``; "unknown" of any other."""
    try:
        name = str(TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return "unknown"
    return _EVERYDAY.get(name, name)


def dtype_bits(name: str) -> int:
    """Return the bits a stored value takes: 4 for "int4", 8 for "float8e4m3fn" and "bool"; 0 where it has no width."""
    found = _BITS.search(name)
    return int(found.group(1)) if found else 8 if name == "bool" else 0
