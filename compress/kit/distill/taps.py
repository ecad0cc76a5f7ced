"""Which layers of two networks are compared: found by name, by scale, or as named; and adaptors between widths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.core.errors import UsageError
from compress.kit.graph import Taps

Shape = tuple[int, int, int]  # channels, height, width of a map
How = Literal["name", "scale", "given"]


@dataclass(frozen=True)
class TapPair:
    """Two layers whose outputs are compared.

    Args:
        student_path: Module path in the student.
        teacher_path: Module path in the teacher.
        student_shape: (C, H, W) of the student's map, at the size they were matched at.
        teacher_shape: The same of the teacher's.
        how: By what they were matched.
    """

    student_path: str
    teacher_path: str
    student_shape: Shape
    teacher_shape: Shape
    how: How

    @property
    def name(self) -> str:
        """What the pair is called in logs."""
        same = self.student_path == self.teacher_path
        return self.student_path if same else f"{self.student_path}={self.teacher_path}"


def match_taps(
    student: nn.Module,
    teacher: nn.Module,
    size: int,
    channels: int,
    student_taps: Sequence[str] = (),
    teacher_taps: Sequence[str] = (),
    wanted: Mapping[str, str] | None = None,
) -> tuple[TapPair, ...]:
    """Pair the layers of two networks, in the order in which the student computes them.

    Layers named in ``wanted`` are taken as they are. Otherwise those taps pair whose path both networks register and
    whose maps are of one size ("name"); without any, the last tap of each scale of both ("scale"), where a scale is how
    often the picture is halved, rounded. A network without registered taps offers the parts at its top that return
    maps, or else the parts of those, but none that only make its outputs. The networks run in eval mode on a blank
    picture; no weight or statistic of theirs changes.

    Args:
        student: Who learns.
        teacher: Who teaches.
        size: Pixels a side of the picture they are run on, one both can take.
        channels: Of that picture.
        student_taps: Paths the student registers.
        teacher_taps: Paths the teacher registers.
        wanted: The student's paths with the teacher's, instead of all that.

    Raises:
        UsageError: If a path does not exist, is never run or gives no map (N, C, H, W), or nothing is left to pair.
    """
    if wanted is not None:
        mine = _shapes(student, list(wanted), size, channels, strict=True)
        theirs = _shapes(teacher, list(dict.fromkeys(wanted.values())), size, channels, strict=True)
        return tuple(TapPair(s, t, mine[s], theirs[t], "given") for s, t in wanted.items())
    mine = _offered(student, student_taps, size, channels)
    theirs = _offered(teacher, teacher_taps, size, channels)
    pairs = [
        TapPair(path, path, shape, theirs[path], "name")
        for path, shape in mine.items()
        if path in student_taps and path in teacher_taps and path in theirs and theirs[path][1:] == shape[1:]
    ]
    pairs = pairs or _by_scale(mine, theirs, size)
    if not pairs:
        raise UsageError(
            f"no layers of {type(student).__name__} and {type(teacher).__name__} pair: found {_listed(mine)} against "
            f"{_listed(theirs)}",
            hint='name them in the recipe: [taps] "student.path" = "teacher.path"',
        )
    return tuple(pairs)


def _by_scale(mine: Mapping[str, Shape], theirs: Mapping[str, Shape], size: int) -> list[TapPair]:
    last_of_student = {_scale(shape, size): path for path, shape in mine.items()}
    last_of_teacher = {_scale(shape, size): path for path, shape in theirs.items()}
    both = [(path, last_of_teacher[scale]) for scale, path in last_of_student.items() if scale in last_of_teacher]
    order = {path: place for place, path in enumerate(mine)}
    both.sort(key=lambda pair: order[pair[0]])
    return [TapPair(s, t, mine[s], theirs[t], "scale") for s, t in both]


def _scale(shape: Shape, size: int) -> int:
    """How often a picture of that size is halved to the map's longer side, rounded."""
    return round(math.log2(size / max(shape[1:])))


def _offered(network: nn.Module, registered: Sequence[str], size: int, channels: int) -> dict[str, Shape]:
    if registered:
        return _shapes(network, registered, size, channels)
    paths = [name for name, _ in network.named_children()]
    while paths:
        found = _shapes(network, paths, size, channels, inside=True)
        if found:
            return found
        # a wrapper, or parts that are lists of parts: what is in them
        paths = [f"{path}.{name}" for path in paths for name, _ in network.get_submodule(path).named_children()]
    return {}


def _without_heads(seen: Mapping[str, Any], outputs: Any) -> dict[str, Any]:
    """Leave out the parts that only make the outputs: what they return is one, or as wide as the first."""
    ends = [output for output in _tensors(outputs) if _is_map(output)]
    places = {end.data_ptr() for end in ends}
    widths = {end.shape[1] for end in ends[:1]}
    inner = {path: value for path, value in seen.items() if _is_map(value) and value.data_ptr() not in places}
    return {path: value for path, value in inner.items() if value.shape[1] not in widths}


def _shapes(
    network: nn.Module,
    paths: Sequence[str],
    size: int,
    channels: int,
    *,
    strict: bool = False,
    inside: bool = False,
) -> dict[str, Shape]:
    """Run the network once: shapes of the maps its parts return, in the order they are computed.

    Args:
        network: Which.
        paths: Of its parts.
        size: Pixels a side.
        channels: Of the picture.
        strict: Refuse parts without a map; else they are left out.
        inside: Leave out parts that only make the outputs of the whole network.
    """
    modes = {part: part.training for part in network.modules()}
    like = next(network.parameters(), torch.empty(0))
    picture = torch.zeros(1, channels, size, size, device=like.device, dtype=like.dtype)
    try:
        network.eval()
        with torch.no_grad(), Taps(network, paths) as seen:
            outputs = network(picture)
    finally:
        for part, mode in modes.items():
            part.training = mode
    kept = _without_heads(seen, outputs) if inside else seen
    found = {path: _shape(value) for path, value in kept.items() if _is_map(value)}
    odd = [path for path in paths if path not in found]
    if strict and odd:
        gave = ", ".join(f"'{path}' {_told(seen.get(path))}" for path in odd)
        raise UsageError(
            f"{type(network).__name__}: {gave}, wanted maps (N, C, H, W)", hint="name parts that return one map each"
        )
    return found


def _tensors(outputs: Any) -> Iterable[Any]:
    if isinstance(outputs, Mapping):
        return outputs.values()
    return outputs if isinstance(outputs, list | tuple) else (outputs,)


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.numel() > 0


def _shape(value: Tensor) -> Shape:
    return (value.shape[1], value.shape[2], value.shape[3])


def _told(value: Any) -> str:
    if value is None:
        return "is not run"
    return f"gives {tuple(value.shape)}" if isinstance(value, Tensor) else f"gives {type(value).__name__}"


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{path} {_by(shape)}" for path, shape in shapes.items()) or "no maps"


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))


def describe(pairs: Sequence[TapPair]) -> list[str]:
    """Lines of a small table of the pairs, for the log."""
    rows = [("student", "", "teacher", "", "matched by", "adaptor")]
    for pair in pairs:
        mine, theirs = pair.student_shape, pair.teacher_shape
        adaptor = "-" if mine[0] == theirs[0] else f"{mine[0]} to {theirs[0]}"
        rows.append((pair.student_path, _by(mine), pair.teacher_path, _by(theirs), pair.how, adaptor))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


class Adaptors(nn.Module):
    """1x1 convolutions from the student's widths to the teacher's, one for each pair; nothing where they agree.

    Romero et al. 2015, "FitNets", section 2.2, with the 1x1 kernel of Shu et al. 2021. They learn with the student
    and are thrown away after it.

    Args:
        pairs: What ``match_taps`` found.
        seed: Of their weights; torch's own generator is left alone.
    """

    def __init__(self, pairs: Sequence[TapPair], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.parts = nn.ModuleList(_adaptor(p.student_shape[0], p.teacher_shape[0], generator) for p in pairs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Bring the student's maps (N, C, H, W), in the order of the pairs, to the teacher's widths (N, C', H, W)."""
        return [part(features) for part, features in zip(self.parts, maps, strict=True)]


def _adaptor(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    conv = nn.Conv2d(inputs, outputs, 1, device="meta").to_empty(device="cpu")  # draws nothing
    assert conv.bias is not None
    reach = 1.0 / math.sqrt(inputs)  # torch's own default for a convolution
    with torch.no_grad():
        conv.weight.uniform_(-reach, reach, generator=generator)
        conv.bias.uniform_(-reach, reach, generator=generator)
    return conv
