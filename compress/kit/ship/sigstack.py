"""Keep a library from leaving the thread's signal stack elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


class _Stack(ctypes.Structure):
    """``stack_t`` of signal.h, as Linux lays it out."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Put this thread's alternate signal stack back to what it was; does nothing where there is no such thing.

    Each OpenVINO engine sets one of its own when its plugin is loaded, and puts back what it found when it is freed:
    of two engines, the second then puts back the freed stack of the first, and the next signal, such as a child's
    end, kills the process.
    """
    call = _sigaltstack()
    before = _Stack()
    if call is None or call(None, ctypes.byref(before)) != 0:
        yield
        return
    try:
        yield
    finally:
        call(ctypes.byref(before), None)


@cache
def _sigaltstack() -> ctypes._FuncPointer | None:
    import sys

    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "sigaltstack", None)
