"""What the teachers and students rooms register: a network by name, and how to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compress.core.errors import UsageError, unknown
from compress.core.registry import Room, register


@dataclass(frozen=True)
class Network:
    """A network of either room.

    ``build(width=None, **options)`` returns an ``nn.Module`` whose ``forward(image (N, C, H, W))`` returns a tuple
    of raw outputs (logits, no activation), the one that ships first. ``width`` caps every channel count, so that
    tests run each network small; ``None`` is the full network. Its further arguments with defaults, and the
    keyword-only ones of ``teach``, are flags of ``compress train``.
    """

    name: str
    task: str
    build: Callable[..., Any]
    size: int  # pixels a side it is trained at unless told otherwise
    stride: int  # input sides must be a multiple of this
    student: str = ""  # the default student, for teachers
    taps: tuple[str, ...] = ()  # module paths whose outputs are worth comparing
    parameters: int = 0  # published or intended count, 0 where there is none; a test counts
    branches: tuple[str, ...] = ()  # parts that must be alive: "path" (its output) or "path:1" (its second argument)
    teach: Callable[..., Any] | None = None  # teach(task, data, *, flags) -> Lesson; None: the task's own


def network(
    *,
    task: str,
    size: int,
    stride: int,
    student: str = "",
    taps: tuple[str, ...] = (),
    parameters: int = 0,
    branches: tuple[str, ...] = (),
    teach: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Network]:
    """Decorate the one builder function of a file in ``teachers/`` or ``students/``."""

    def wrap(build: Callable[..., Any]) -> Network:
        name = build.__module__.rpartition(".")[2]
        record = Network(name, task, build, size, stride, student, taps, parameters, branches, teach)
        register(build.__module__, record)
        return record

    return wrap


TEACHERS: Room[Network] = Room("teachers", "teacher")
STUDENTS: Room[Network] = Room("students", "student")


def find_network(name: str) -> Network:
    """Return the network of that name from either room.

    Raises:
        UsageError: If neither room has it; the message lists both.
    """
    for room in (TEACHERS, STUDENTS):
        if name in room:
            return room.get(name)
    raise unknown("network", name, [*TEACHERS.names(), *STUDENTS.names()])


def kind_of(name: str) -> Literal["teacher", "student"]:
    """Return "teacher" or "student": the room ``name`` lives in."""
    if name in TEACHERS:
        return "teacher"
    if name in STUDENTS:
        return "student"
    raise UsageError(f"'{name}' is in neither room")
