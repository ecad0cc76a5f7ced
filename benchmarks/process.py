"""The parent's end of one worker: start it, ask it, see it die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress.core.console import Advance
from compress.core.errors import CompressError

COMMAND = (sys.executable, "-m", "benchmarks.worker")
_PATIENCE = 5.0  # seconds between closing a worker's stdin and killing it


class WorkerError(CompressError):
    """A worker died, or said that it could not do what it was asked."""


class Process:
    """A worker in a fresh process, spoken to in JSON lines.

    Args:
        command: What to start.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own: Ctrl-C reaches the parent alone, which then stops the workers in order.
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            text=True,
            start_new_session=True,
        )

    @property
    def id(self) -> int:
        """The process's id."""
        return self._child.pid

    def ask(self, do: str, advance: Advance | None = None, **request: Any) -> dict[str, Any]:
        """Ask for one thing and wait for the answer; ``advance`` is called for each step the worker tells of.

        Raises:
            WorkerError: If it died or failed.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise self._death(do) from error
        return self._answer(do, advance)

    def _answer(self, do: str, advance: Advance | None) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            reply: dict[str, Any] = json.loads(line)
            if "step" in reply:
                if advance is not None:
                    advance()
                continue
            if "error" in reply:
                raise WorkerError(reply["error"])
            return reply
        raise self._death(do)

    def _death(self, do: str) -> WorkerError:
        code = self._child.wait()
        how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        said = self._last_words()
        return WorkerError(f"its process {how} at '{do}'{f': {said}' if said else ''}", hint=_advice(code))

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split()) if lines else ""

    def close(self) -> None:
        """Let the worker end by itself, or kill it; harmless when it is gone."""
        assert self._child.stdin is not None and self._child.stdout is not None
        with suppress(BrokenPipeError):  # it died with a request unread: nothing is left to tell it
            self._child.stdin.close()
        try:
            self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)  # with whatever the runtime started (a browser)
            self._child.wait()
        self._child.stdout.close()
        self._stderr.close()


def _environment() -> dict[str, str]:
    """Make this very checkout importable in the worker, wherever the user stands."""
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _advice(code: int) -> str:
    if code == -signal.SIGKILL:
        return "most often memory ran out: measure fewer models at once, or a smaller --size or --batch"
    return ""
