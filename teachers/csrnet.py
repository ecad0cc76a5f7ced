"""CSRNet for retouch: 36 thousand parameters, one set of curves per photo; what large networks must be worth (S2)."""

from __future__ import annotations

from compress.core.networks import network
from compress.kit.nets.csrnet import CsrNet, build_csrnet


@network(
    task="retouch",
    size=256,
    stride=1,
    taps=("first", "second", "third"),
    branches=("condition",),
    parameters=36_489,
)
def build(width: int | None = None) -> CsrNet:
    """Build it: image (N, 3, H, W) to the raw picture of that size.

    Args:
        width: Cap of every channel count.
    """
    return build_csrnet(width)
