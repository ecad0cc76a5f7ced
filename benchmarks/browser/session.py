"""One model in one fresh browser: run, timed and weighed from Python."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.browser.driver import BrowserError, Driver
from benchmarks.browser.options import BrowserOptions
from benchmarks.browser.server import Server
from benchmarks.browser.weight import Weight, resident, weigh
from compress.core.errors import UsageError
from compress.core.web import vendored, web_folder

EMPTY = 1000  # empty runs whose mean is the overhead: a browser's clock ticks in steps of many of them
Runtime = Literal["tfjs", "ort-web"]
Backend = Literal["webgl", "wasm", "webgpu", "cpu"]

RUNS: dict[str, tuple[str, ...]] = {"tfjs": ("webgl", "wasm", "webgpu", "cpu"), "ort-web": ("wasm", "webgpu")}


class Session:
    """A network that runs in a browser; see ``compress.formats.base.Runner``.

    Args:
        model: A folder with the model.json of a TF.js graph model (NHWC), or an ONNX file (NCHW).
        runtime: "tfjs" or "ort-web".
        backend: What it computes with.
        half: float16 textures (TF.js on WebGL), as phones have them.
        threads: Of WASM; 0 leaves the choice to the runtime.
        options: Which browser, and how long a call may take.

    Attributes:
        describe: What ran, with what, on what; "overhead" is what timing adds to a latency: seconds of an empty run.
        load_seconds: Of fetching, parsing and handing over the model, measured in the page.
        start_seconds: Of fetching and starting the runtime, measured in the page.

    Raises:
        UsageError: If the runtime has no such backend.
        MissingExtraError: If browser, Node or an npm package is not installed.
        BrowserError: If the browser lacks the backend, or the model can't be loaded.
    """

    def __init__(
        self,
        model: Path,
        *,
        runtime: Runtime,
        backend: Backend,
        half: bool = False,
        threads: int = 0,
        options: BrowserOptions,
    ) -> None:
        _check(runtime, backend, half)
        self._resident = 0
        self._image: NDArray[np.float32] | None = None
        modules = vendored("puppeteer-core").parent
        self._server = Server({"web": web_folder(), "vendor": modules, "model": model})
        try:
            url = self._server.url + "web/bench/index.html"
            self._driver = Driver(url, backend=backend, options=options)
        except BaseException:
            self._server.close()
            raise
        try:
            self._load(model, {"runtime": runtime, "backend": backend, "half": half, "threads": threads})
        except BaseException:
            self.close()
            raise

    def _load(self, model: Path, settings: dict[str, Any]) -> None:
        opened = self._call("open", settings)
        loaded = self._call("load", "model.json" if model.is_dir() else model.name)
        self.start_seconds: float = opened["seconds"]
        self.load_seconds: float = loaded["seconds"]
        self._nhwc: bool = loaded["layout"] == "NHWC"
        self.describe: dict[str, Any] = {
            **loaded["describe"],
            "browser": self._driver.kind,
            "browser_version": self._driver.version,
            "cross_origin_isolated": opened["isolated"],
            "overhead": statistics.fmean(self._call("empty", EMPTY)),
        }
        self._watch()

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W) to the picture (N, C', H', W').

        Raises:
            BrowserError: If the page fails, hangs or dies.
        """
        self._put(image)
        shape = self._call("run")
        data = self._server.tensors.pop("output", b"")
        if len(shape) != 4 or len(data) != 4 * int(np.prod(shape)):
            raise BrowserError(f"the page gave {len(data)} bytes of the shape {shape}, not a batch of pictures")
        picture = np.frombuffer(data, np.float32).reshape(shape)
        self._watch()
        return np.ascontiguousarray(picture.transpose(0, 3, 1, 2)) if self._nhwc else picture.copy()

    def seconds(self, image: NDArray[np.float32], count: int) -> list[float]:
        """Infer ``count`` times; seconds of each, from an array of the page to an array of the page.

        The image is shipped only if it is another one than last time.

        Raises:
            BrowserError: If the page fails, hangs or dies.
        """
        self._put(image)
        seconds: list[float] = self._call("time", count)
        self._watch()
        return seconds

    def memory(self) -> dict[str, int]:
        """Bytes at most so far; a kind is absent where it is not known.

        "js": JavaScript's heap with its array buffers, as seen after each call (Chromium). "gpu": what TF.js holds on
        the card. "wasm": size of the WASM module's memory. "process": resident size of the browser's processes.
        """
        self._watch()
        return {**self._call("memory"), "process": self._resident}

    def download(self) -> dict[str, Weight]:
        """Bytes of what the page fetched of "model" and of "runtime": "raw", and as a server sends them."""
        return {"model": weigh(self._server.served("model")), "runtime": weigh(self._server.served("vendor"))}

    def close(self) -> None:
        """End the browser and the server; nothing of them is left."""
        self._driver.close()
        self._server.close()

    def _call(self, name: str, argument: Any = None) -> Any:
        try:
            return self._driver.evaluate(f"bench.{name}({'' if argument is None else json.dumps(argument)})")
        except BrowserError as error:
            if error.ended:
                self.close()
            raise

    def _put(self, image: NDArray[np.float32]) -> None:
        if self._image is not None and np.array_equal(self._image, image):
            return
        turned = image.transpose(0, 2, 3, 1) if self._nhwc else image
        self._server.tensors["input"] = np.ascontiguousarray(turned, np.float32).tobytes()
        self._call("put", list(turned.shape))
        self._image = image.copy()

    def _watch(self) -> None:
        self._resident = max(self._resident, resident(self._driver.processes()))


def _check(runtime: str, backend: str, half: bool) -> None:
    if backend not in RUNS[runtime]:
        raise UsageError(
            f"{runtime} is not run on {backend}",
            hint=f"{runtime} runs on {', '.join(RUNS[runtime])}; its own WebGL gives wrong values"
            if (runtime, backend) == ("ort-web", "webgl")
            else f"{runtime} runs on {', '.join(RUNS[runtime])}",
        )
    if half and (runtime, backend) != ("tfjs", "webgl"):
        raise UsageError(f"float16 textures are of TF.js on WebGL, not of {runtime} on {backend}")
