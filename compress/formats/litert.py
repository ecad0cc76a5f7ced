"""LiteRT (TensorFlow Lite): a lowered network as one flat file, run by its interpreter on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError
from compress.core.registry import register
from compress.core.types import Artifact
from compress.core.whole import written_whole
from compress.formats.base import Format, Runner
from compress.formats.saved_model import TensorflowRunner, prepare_tensorflow


class LiteRT(Format):
    """One ``model.tflite``; its sides stay free where the network allows it."""

    name = "litert"
    suffix = ".tflite"

    def load(self, folder: Path, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
        """Open the artifact in the interpreter; see ``Format.load``."""
        prepare_tensorflow(threads, device)
        return open_litert(self.weights(folder, artifact), threads=threads)

    def write(self, saved_model: Path, path: Path, *, weights: Literal["float32", "float16"] = "float32") -> None:
        """Convert a SavedModel; ``weights`` float16 halves the file, the arithmetic stays float32.

        Raises:
            ArtifactError: If the converter can't take the network.
        """
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
        if weights == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            content = converter.convert()
        # the converter fails in many ways
        except Exception as error:
            raise ArtifactError(
                f"LiteRT can't take the network: {' '.join(str(error).split())[:200]}", hint="fix its size with --size"
            ) from error
        with written_whole(path) as scratch:
            scratch.write_bytes(content)


def open_litert(path: Path, *, threads: int = 0) -> TensorflowRunner:
    """Open a file in the interpreter.

    Raises:
        ArtifactError: If it can't be read.
    """
    import tensorflow as tf

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its move to a package of its own
            interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads or None)
    # a damaged file fails in many ways
    except Exception as error:
        raise ArtifactError(
            f"LiteRT can't read {path.name}: {' '.join(str(error).split())[:160]}", hint="export it again"
        ) from error
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    current: list[tuple[int, ...]] = []

    def run(image: Any) -> NDArray[np.float32]:
        shape = tuple(image.shape)
        if current != [shape]:
            interpreter.resize_tensor_input(taken["index"], shape, strict=True)
            interpreter.allocate_tensors()
            current[:] = [shape]
        interpreter.set_tensor(taken["index"], np.asarray(image))
        interpreter.invoke()
        output: NDArray[np.float32] = interpreter.get_tensor(given["index"])
        return output

    return TensorflowRunner(run, threads, runtime="litert")


register(__name__, LiteRT())
