"""TF.js on WebGPU in a real browser; the adapter is in every row."""

from benchmarks.browser.target import WebTarget
from compress.core.registry import register

register(__name__, WebTarget("webgpu", "webgpu"))
