"""The Node process that drives one browser, spoken to in JSON lines; whatever happens, nothing of it is left behind."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.browser.options import BrowserOptions
from compress.core.errors import CompressError
from compress.core.web import find_browser, find_node, vendored, web_folder

_LOG = "node.log"  # what Node says on stderr
_LEAVE = 5.0  # seconds that Node has to end its browser before it is killed


class BrowserError(CompressError):
    """The browser or its page failed at what it was asked. ended: nothing more can be asked of it."""

    def __init__(self, what: str, *, hint: str = "", ended: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.ended = ended


class Driver:
    """A fresh browser with a profile of its own, showing one page.

    Args:
        url: Of the page, on a server of ours; it sets ``globalThis.bench`` when it is ready.
        backend: What the page will compute with; decides the browser's flags.
        options: Which browser, and for how long it may keep us waiting.

    Raises:
        MissingExtraError: If there is no such browser, no Node or no puppeteer-core.
        BrowserError: If the browser does not start.
    """

    def __init__(self, url: str, *, backend: str, options: BrowserOptions) -> None:
        self.kind, program = find_browser(options.browser)
        self.patience = options.patience
        self._count = 0
        self._closed = ""
        node, main = find_node(), web_folder() / "driver" / "main.mjs"
        vendored("puppeteer-core")
        self.folder = Path(tempfile.mkdtemp(prefix="compress-browser-"))
        self._node = _start([node, str(main)], self.folder)
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        wish = {
            "kind": self.kind,
            "program": program,
            "headed": options.headed,
            "backend": backend,
            "folder": str(self.folder),
            "url": url,
            "seconds": self.patience,
        }
        try:
            launched = self._ask("launch", wish=wish)
        except BaseException:
            self.close()
            raise
        self.pid: int = launched["pid"]
        self.version: str = launched["version"]

    def evaluate(self, script: str) -> Any:
        """Return what a JavaScript expression in the page gives; a promise is awaited.

        Raises:
            BrowserError: If it throws, or if page, browser or Node hang or are gone.
        """
        return self._ask("evaluate", script=script)["value"]

    def processes(self) -> list[psutil.Process]:
        """The browser's process and all below it."""
        try:
            browser = psutil.Process(self.pid)
            return [browser, *browser.children(recursive=True)]
        except psutil.Error:
            return []

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        if self._closed:
            raise BrowserError(f"the browser is gone: {self._closed}", ended=True)
        self._count += 1
        try:
            assert self._node.stdin is not None
            self._node.stdin.write(json.dumps({"id": self._count, "do": do, **request}) + "\n")
            self._node.stdin.flush()
            line = self._replies.get(timeout=self.patience)
        except (BrokenPipeError, queue.Empty) as error:
            hung = f"the browser did not answer within {self.patience:g} s"
            raise self._end(hung if isinstance(error, queue.Empty) else self._death()) from error
        if line is None:
            raise self._end(self._death())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise self._end(reply["error"]) if reply["ended"] else BrowserError(reply["error"])
        return reply

    def _death(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._node.wait(_LEAVE)
        code = self._node.poll()
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        said = (self.folder / _LOG).read_text(encoding="utf-8", errors="replace").strip()
        return f"Node, which drives the browser, ended ({how}){': ' if said else ''}{' '.join(said[-300:].split())}"

    def _end(self, why: str) -> BrowserError:
        self.close(why)
        return BrowserError(why, ended=True)

    def _listen(self) -> None:
        assert self._node.stdout is not None
        with suppress(ValueError):  # closed while it was read
            for line in self._node.stdout:
                self._replies.put(line)
        self._replies.put(None)

    def close(self, why: str = "it was closed") -> None:
        """End browser and Node and remove the profile; harmless when that is done."""
        if self._closed:
            return
        self._closed = why
        assert self._node.stdin is not None
        with suppress(BrokenPipeError):
            self._node.stdin.close()
        try:
            self._node.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            self._node.kill()
            self._node.wait()
        _sweep(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def _start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    # A session of its own: when our whole process group is killed, Node is left to end the browser and to tidy up.
    with (folder / _LOG).open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )


def _sweep(folder: Path) -> None:
    """Kill what was started with this folder for its temporary files and is still there, with all below it."""
    left: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("TMPDIR") == str(folder):
                left |= {process, *process.children(recursive=True)}
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_LEAVE)
