"""One logger and one progress display: both on stderr, the bars silent where stderr is not a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger("compress")


def set_up(*, quiet: bool = False) -> None:
    """Send the log to stderr: plain lines, warnings only when quiet."""
    log.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


class Advance(Protocol):
    """Tell a progress display that one more step is done, with something worth showing beside the bar."""

    def __call__(self, note: str = "") -> None:  # noqa: D102
        ...


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar with the time left; without a terminal, a line at most every 30 s.

    Args:
        title: What is going on.
        total: Steps in all.
        done: Steps that were already done (a resumed run).
    """
    if log.level > logging.INFO:
        yield _silent
    elif sys.stderr.isatty():
        yield from _bar(title, total, done)
    else:
        yield _lines(title, total, done)


def _silent(note: str = "") -> None:
    del note


def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(title, total=total, completed=done, note="")

        def advance(note: str = "") -> None:
            display.update(task, advance=1, note=note)

        yield advance


def _lines(title: str, total: int, done: int) -> Advance:
    start = last = time.monotonic()
    count = done

    def advance(note: str = "") -> None:
        nonlocal last, count
        count += 1
        now = time.monotonic()
        if now - last >= 30 or count == total:
            last = now
            left = (now - start) / max(count - done, 1) * (total - count)
            log.info("%s %d/%d, %.0f s left %s", title, count, total, left, note)

    return advance
