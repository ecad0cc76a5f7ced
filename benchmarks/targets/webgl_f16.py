"""TF.js on WebGL with float16 textures, as most phones compute."""

from benchmarks.browser.target import WebTarget
from compress.core.registry import register

register(__name__, WebTarget("webgl-f16", "webgl", half=True))
