"""TF.js on WebGL in a real browser; the renderer is in every row."""

from benchmarks.browser.target import WebTarget
from compress.core.registry import register

register(__name__, WebTarget("webgl", "webgl"))
