"""TF.js on WebAssembly in a real browser, with SIMD and threads where it has them."""

from benchmarks.browser.target import WebTarget
from compress.core.registry import register

register(__name__, WebTarget("wasm", "wasm"))
