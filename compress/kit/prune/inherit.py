"""A student that starts as its teacher without the channels that matter least, wherever their layers agree."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.kit.prune.core import Kept, choose_counts, cut
from compress.kit.prune.importance import Importance
from compress.kit.prune.trace import Coupled, couple
from compress.kit.prune.widths import channels_of, sized


def student_from(
    teacher_module: nn.Module, student_module: nn.Module, example: Tensor, importance: Importance | str = "l2"
) -> tuple[int, int]:
    """Copy into ``student_module``, in place, what matters most of ``teacher_module``.

    Channels that go together are cut to the student's width where all layers that make them are in the student under
    the same path, one as wide as the other and none wider than the teacher's. A layer is copied whole, with its norm's
    statistics, or keeps its own start: where its inputs or outputs could not be cut so, or its path is another.

    Args:
        teacher_module: Trained; stays as it is.
        student_module: Of the same topology, at least in part.
        example: Images (N, C, H, W) that the teacher runs on.
        importance: See ``find_importance``.

    Returns:
        How many of the student's layers with weights were copied, and how many it has.
    """
    coupled = couple(teacher_module, example)
    student = {path: part for path, part in student_module.named_modules() if _holds(part)}
    counts = {group.root: width for group in coupled if (width := _width(group, teacher_module, student)) is not None}
    thin = cut(teacher_module, coupled, _kept(teacher_module, coupled, counts, importance))
    given = {path: part for path, part in thin.named_modules() if _holds(part)}
    alike = [path for path in student if path in given and _same(student[path], given[path])]
    with torch.no_grad():
        for path in alike:
            for name, tensor in _tensors(student[path]).items():
                tensor.copy_(_tensors(given[path])[name])
    return len(alike), len(student)


def _kept(module: nn.Module, coupled: list[Coupled], counts: Mapping[str, int], importance: Importance | str) -> Kept:
    return choose_counts(module, [group for group in coupled if group.root in counts], counts, importance)


def _width(group: Coupled, teacher: nn.Module, student: Mapping[str, nn.Module]) -> int | None:
    """Channels the student has of these, None where it has none, more, or some of its layers disagree."""
    widths = set()
    for item in group.makers:
        own = student.get(item.path)
        whole = len(item.index) == channels_of(teacher.get_submodule(item.path))
        if own is None or not sized(own) or not whole:
            return None
        widths.add(channels_of(own))
    width = widths.pop() if len(widths) == 1 else group.channels + 1
    if width > group.channels or width % group.groups or (group.why and width < group.channels):
        return None
    return width


def _holds(part: nn.Module) -> bool:
    return bool(_tensors(part))


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    own = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are of one kind and hold tensors of the same names and shapes."""
    ours, theirs = _tensors(one), _tensors(other)
    return type(one) is type(other) and {name: t.shape for name, t in ours.items()} == {
        name: t.shape for name, t in theirs.items()
    }
