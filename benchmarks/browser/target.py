"""What the browser targets share: which files they run, and how the user's choices name their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.targets.base import How, Target
from compress.core.errors import MissingExtraError
from compress.core.machine import require
from compress.core.store import Store
from compress.core.types import Artifact
from compress.core.web import find_browser, find_node, vendored

if TYPE_CHECKING:
    from compress.formats.base import Runner

STORED = ("float32", "float16", "uint16", "uint8")  # what TF.js weights may be stored as


_ANY = How()


@dataclass(frozen=True)
class WebTarget(Target):
    """One backend of TF.js, or of ONNX Runtime Web where the user asks for that, in a fresh browser a model.

    ``half``: activations are kept in float16 textures, as on most phones.
    """

    name: str
    backend: Literal["webgl", "wasm", "webgpu", "cpu"]
    half: bool = False
    web: bool = True
    how: How = _ANY

    @property
    def label(self) -> str:
        """The name; "ort-" before it for ONNX Runtime Web, the browser after it where that is not Chromium."""
        runtime = "ort-" if self.how.runtime == "ort-web" else ""
        try:
            kind = find_browser(self.how.browser)[0]
        except MissingExtraError:
            kind = self.how.browser
        return f"{runtime}{self.name}{'-firefox' if kind == 'firefox' else ''}"

    def configured(self, how: How) -> Target:
        """Return the target with the user's choice of runtime and browser."""
        return replace(self, how=how)

    def available(self) -> str:
        """Whether a browser, Node and the JavaScript packages are here."""
        try:
            find_browser(self.how.browser)
            find_node()
            vendored("puppeteer-core")
            if self.how.runtime == "tfjs":
                require("web")
        except MissingExtraError as error:
            return str(error)
        if self.how.runtime == "ort-web" and (self.half or self.backend not in ("wasm", "webgpu")):
            return "ONNX Runtime Web is measured on wasm and webgpu only: its WebGL gives wrong values"
        return ""

    def can_run(self, artifact: Artifact) -> str:
        """TF.js files as they are; ONNX files and torch weights through an export. Integers only in ort-web."""
        if self.how.runtime == "ort-web":
            return "" if artifact.format in ("onnx", "safetensors") else f"ort-web can't run {artifact.format} files"
        if artifact.format not in ("tfjs", "onnx", "safetensors"):
            return f"{artifact.format} can't become a TF.js model"
        if artifact.dtype in (*STORED, "bfloat16"):
            return ""
        return f"TF.js computes in floats only; `--runtime ort-web` runs its {artifact.dtype} file"

    def prepare(self, store: Store, artifact: Artifact) -> Path | None:
        """The TF.js folder or the ONNX file: the artifact's own, or an export kept in the store."""
        if self.how.runtime == "ort-web":
            from compress.jobs.models import as_onnx

            return as_onnx(store, artifact)
        from compress.jobs.export import as_tfjs

        return as_tfjs(store, artifact)

    def start(self) -> None:
        """Import what speaks to the browser."""
        import benchmarks.browser.session  # noqa: F401

    def open(self, store: Store, artifact: Artifact, path: Path | None, threads: int) -> Runner:  # noqa: ARG002
        """Start a fresh browser and load the model in it."""
        from benchmarks.browser.options import BrowserOptions
        from benchmarks.browser.session import Session

        assert path is not None, "prepare() gives this target its files"
        options = BrowserOptions(browser=self.how.browser, headed=self.how.headed, patience=self.how.patience)
        return Session(path, runtime=self.how.runtime, backend=self.backend, half=self.half, threads=threads,
                       options=options)  # fmt: skip
