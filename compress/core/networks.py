"""What the teachers and students rooms register: a network by name, and how to build it."""

from __future__ import annotations

import importlib
import re
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


_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
    """Whether a network's name is that of a builder outside the rooms: "package.module:function"."""
    return _REFERENCE.fullmatch(name) is not None


def find_network(name: str, task: str = "") -> Network:
    """Return the network of that name from either room, or a user's own: "package.module:function".

    Args:
        name: Of the network.
        task: Of the pictures a user's own network makes; nothing else says so where its builder is not decorated
            with ``network``. An artifact's manifest has it. Not looked at for networks of the rooms.

    Raises:
        UsageError: If neither room has it; the message lists both. If there is no such function, or it is nowhere
            said of which task it is.
    """
    for room in (TEACHERS, STUDENTS):
        if name in room:
            return room.get(name)
    if is_reference(name):
        # torch comes with it: imported on demand, as the members of a room are
        own: Network = importlib.import_module("compress.kit.nets.users").own_network(name, task)
        return own
    raise unknown("network", name, [*TEACHERS.names(), *STUDENTS.names()])


def kind_of(name: str) -> Literal["teacher", "student"]:
    """Return "teacher" or "student": the room ``name`` lives in; what is in neither is a user's own teacher.

    Raises:
        UsageError: If it is no network at all.
    """
    if name in TEACHERS or is_reference(name):
        return "teacher"
    if name in STUDENTS:
        return "student"
    raise UsageError(f"'{name}' is in neither room")
