"""TF.js graph model: model.json and shards of weights, for browsers; run in Python from the very same files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from compress.core.errors import ArtifactError
from compress.core.registry import register
from compress.core.types import Artifact
from compress.formats.base import Format, Runner
from compress.formats.saved_model import TensorflowRunner, prepare_tensorflow
from compress.kit.lower import graphmodel
from compress.kit.ship.runtime import quiet

Weights = Literal["float32", "float16", "uint16", "uint8"]
Per = Literal["tensor", "channel"]


class Tfjs(Format):
    """A folder with ``model.json`` and its shards; the arithmetic is float32 however the weights are stored."""

    name = "tfjs"
    suffix = graphmodel.MODEL

    def load(self, folder: Path, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
        """Open the artifact in TensorFlow; see ``Format.load``."""
        prepare_tensorflow(threads, device)
        return open_tfjs(self.weights(folder, artifact).parent, threads=threads)

    def write(self, saved_model: Path, folder: Path, *, input: str, output: str) -> None:
        """Convert a SavedModel of one image input and one output to a graph model of float32 weights.

        Raises:
            ArtifactError: If TF.js lacks an operation of the network.
        """
        graphmodel.import_converter()
        from tensorflowjs.converters.tf_saved_model_conversion_v2 import convert_tf_saved_model

        with tempfile.TemporaryDirectory() as scratch:
            try:
                with quiet():
                    convert_tf_saved_model(str(saved_model), scratch)
            # the converter names operations that TF.js lacks in a bare ValueError
            except Exception as error:
                raise ArtifactError(
                    f"TF.js can't take the network: {' '.join(str(error).split())[:200]}",
                    hint="run it with ONNX Runtime in the browser instead: benchmarks run --runtime ort-web",
                ) from error
            model = graphmodel.read(Path(scratch))
        graphmodel.write(graphmodel.tidied(model, input=input, output=output), folder)

    def store_as(self, source: Path, folder: Path, *, weights: Weights, per: Per = "channel") -> None:
        """Write the float32 graph model in ``source`` again with its weights in fewer bits.

        Args:
            source: What ``write`` wrote.
            folder: Where it goes.
            weights: How filters and matrices are stored; "float32" copies.
            per: A range for every output channel of a filter, or one for each whole filter (uint8 and uint16).
        """
        if weights == "float32":
            shutil.copytree(source, folder, dirs_exist_ok=True)
            return
        model, kinds = graphmodel.stored(graphmodel.read(source), weights, per_channel=per == "channel")
        graphmodel.write(model, folder, stored_as=kinds)


def open_tfjs(folder: Path, *, threads: int = 0) -> TensorflowRunner:
    """Open a graph model as its files say, weights dequantized as TF.js does.

    Raises:
        ArtifactError: If a file is damaged or TensorFlow refuses the graph.
    """
    from compress.kit.lower.plain import function_of

    return TensorflowRunner(function_of(graphmodel.read(folder)), threads)


register(__name__, Tfjs())
