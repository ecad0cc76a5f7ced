"""The frozen records that travel between rooms, and how they become JSON and come back.

SI units inside: seconds and bytes. Milliseconds and megabytes exist only in ``reports``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

SCHEMA = 1

Better = Literal["lower", "higher", "none"]
R = TypeVar("R")


@dataclass(frozen=True)
class ImageSpec:
    """One image tensor at the edge of a network: everything needed to make or read it.

    A photo of values 0..255 becomes ``(photo / divisor - mean) / std``, with ``divisor`` 255 for scale "255"
    and the photo's own maximum for scale "max". Colour "grey" is the photo's luminance, "lightness" its CIE L*
    (D65), 0..100 laid over 0..255.
    """

    name: str = "image"
    channels: int = 3
    height: int = 320  # pixels the network was made for
    width: int = 320
    dynamic: bool = True  # whether other heights and widths run too
    color: Literal["rgb", "grey", "lightness", "ab", "mask", "classes"] = "rgb"
    fit: Literal["stretch", "pad", "native"] = "stretch"  # how a photo of another size is brought in, see kit.infer
    scale: Literal["255", "max"] = "255"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    low: float = 0.0
    high: float = 1.0
    layout: Literal["NCHW", "NHWC"] = "NCHW"


@dataclass(frozen=True)
class File:
    """A file of an artifact: path relative to its folder, sha256 of its bytes, size in bytes."""

    path: str
    sha256: str
    bytes: int
    ships: bool = True  # False: a record of the making (loss history), not part of the network


@dataclass(frozen=True)
class Machine:
    """What ran something: enough to tell two rows apart that may not be compared."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    threads: int
    memory_bytes: int
    gpu: str
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """A network on disk and how it came to be: the manifest of a folder in the store."""

    id: str
    name: str
    kind: Literal["teacher", "student", "foreign"]
    task: str
    network: str  # registered name that rebuilds it; "" for a foreign file
    network_options: dict[str, Any]
    format: str  # a member of the formats room: "safetensors", "onnx", ...
    dtype: str  # of the weights: "float32", "float16", "int8", ...
    method: str
    options: dict[str, Any]
    parent: str  # id of the artifact this one was made from, or ""
    parent_sha256: str  # the parent's ``sha256``, or ""
    teacher: str  # id of the artifact it learned from, or ""
    key: str  # hash of method, options, lineage and data: equal keys are the same stage
    input: ImageSpec
    output: ImageSpec
    files: tuple[File, ...]
    parameters: int
    macs: int  # multiply-accumulates of one image at the input size
    data: str  # fingerprint of the data it was made with, or ""
    metrics: dict[str, float]  # at birth, on the validation split
    machine: Machine
    seed: int
    versions: dict[str, str]
    commit: str
    created: str  # UTC, ISO 8601
    seconds: float  # that making it took
    notes: dict[str, Any] = field(default_factory=dict)
    # shape of each layer's weight by module path, where they are not the registered network's own: it was pruned
    widths: dict[str, list[int]] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def sha256(self) -> str:
        """Hash of the network itself: of the file that ships, or of the hashes of all that do."""
        hashes = [file.sha256 for file in self.files if file.ships]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of the files that ship, in bytes."""
        return sum(file.bytes for file in self.files if file.ships)


@dataclass(frozen=True)
class Row:
    """One measured quantity of one artifact on one target, in SI units."""

    artifact: str
    target: str
    quantity: str
    value: float
    unit: str
    better: Better
    run: str  # rows of one run were measured interleaved and may be compared
    machine: Machine
    repeats: tuple[float, ...] = ()  # raw samples behind ``value``
    details: dict[str, Any] = field(default_factory=dict)
    created: str = ""


def to_json(record: Any) -> dict[str, Any]:
    """Turn a record into plain JSON types."""
    return dataclasses.asdict(record)


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """Build a record from plain JSON types; unknown keys are dropped, absent ones take their default.

    Raises:
        TypeError: If a field without a default is absent or a nested record is malformed.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: _revive(hints[key], value) for key, value in data.items() if key in known})


def _revive(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise TypeError(f"{hint.__name__} wants an object, found {type(value).__name__}")
        return from_json(hint, value)
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_revive(inner, item) for item in value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and value is not None:
        return _revive(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    return value
