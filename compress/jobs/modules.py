"""A network of the user's own, named as package.module:function, exported and taken in like any foreign file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from compress.core.errors import ArtifactError
from compress.core.networks import Network
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.foreign import Reading, import_onnx
from compress.kit.graph import fold_batch_norm
from compress.kit.nets.users import build_module, find_function
from compress.kit.ship.runtime import Shipped, export_graph
from compress.tasks import TASKS


def import_module(store: Store, reference: str, reading: Reading) -> Artifact:
    """Build the network, export what it ships (its first output, as it is) and import the file.

    The module is looked for in the working directory first. The same weights are found again in the store.

    Raises:
        UsageError: If there is no such module or function, or it builds no network.
        ArtifactError: If the network can't be exported.
    """
    named = find_function(reference)
    torch.manual_seed(0)
    network = build_module(reference, named.build if isinstance(named, Network) else named)
    spec = TASKS.get(reading.task).input
    size = reading.size or spec.height
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{reference.rpartition('.')[2].replace(':', '_')}.onnx"
        module = fold_batch_norm(Shipped(network.eval(), lambda picture: picture))
        last = None
        for free in ((0, 2, 3), (0,)):
            try:
                export_graph(
                    module, path, channels=spec.channels, size=(size, size), names=("image", "picture"), free=free
                )
                break
            # whatever the exporter meets in a stranger's network; the second try asks less of it
            except Exception as error:
                last = error
        else:
            said = " ".join(str(last).split())[:200]
            raise ArtifactError(f"{reference} can't be exported at {size}x{size}: {said}",
                                hint="does it take one image (N, C, H, W)?") from last  # fmt: skip
        return import_onnx(store, path, reading)
