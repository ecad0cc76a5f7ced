"""The student for colour, less than a tenth of the colorizer, with batch norm that folds away on export (S7)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.colorizer import Colorizer, Table, build_colorizer

# Multiples of 16, which vector units like
TABLE = Table(
    encoder=((16, 2), (32, 1), (32, 2), (64, 1), (64, 2), (128, 1), (128, 1), (80, 1)),
    fusion=80,
    decoder=(48, 32, 32, 16),
    features=(16, 32, 48, 64, 80),
)
OUTPUTS = 64
TAPS = ("encoder", "features", "fusion", "decoder.at4")


@network(task="color", size=224, stride=1, taps=TAPS, parameters=556_098, branches=("features", "encoder"))
def build(width: int | None = None) -> Colorizer:
    """Build it: image (N, 1, H, W) to raw ab (N, 2, H, W), features at 1/4 of the sides and fused ones at 1/8."""
    return build_colorizer(TABLE, "small", OUTPUTS, width=width, norm=True)
