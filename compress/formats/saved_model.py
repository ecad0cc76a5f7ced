"""TensorFlow SavedModel: a lowered network, channels last inside, run by TensorFlow on the CPU."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError, MissingExtraError, UsageError
from compress.core.machine import require
from compress.core.registry import register
from compress.core.types import Artifact
from compress.formats.base import Format, Runner

if TYPE_CHECKING:
    from compress.kit.lower.network import Lowered


class TensorflowRunner:
    """Runs a function of TensorFlow that maps (N, H, W, C) to (N, H', W', C') as every runner does: channels first."""

    def __init__(self, function: Callable[[Any], Any], threads: int, runtime: str = "tensorflow") -> None:
        import tensorflow as tf

        self._function: Callable[[Any], Any] | None = function
        self._constant = tf.constant
        self.describe: dict[str, Any] = {
            "runtime": runtime,
            "version": tf.__version__,
            "threads": threads,
            "provider": "cpu",
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W) to the picture (N, C', H', W').

        Raises:
            UsageError: If the network doesn't take an image of that shape.
        """
        assert self._function is not None, "it is closed"
        given = np.ascontiguousarray(image.transpose(0, 2, 3, 1), np.float32)
        try:
            output = np.asarray(self._function(self._constant(given)))
        # TensorFlow refuses a shape with errors of many kinds
        except Exception as error:
            raise UsageError(
                f"the network does not take an image of shape {list(image.shape)}",
                hint=f"TensorFlow says: {' '.join(str(error).split())[:160]}",
            ) from error
        return cast("NDArray[np.float32]", np.ascontiguousarray(output.transpose(0, 3, 1, 2)))

    def close(self) -> None:
        """Free the function."""
        self._function = None


def prepare_tensorflow(threads: int, device: str) -> None:
    """Import TensorFlow for the CPU, with so many threads where it has not started yet.

    Raises:
        MissingExtraError: If it is not installed, or another device is asked.
    """
    require("web")
    if device != "cpu":
        raise MissingExtraError(f"files for TensorFlow are run on the CPU only, found device '{device}'",
                                hint="use device cpu")  # fmt: skip
    import tensorflow as tf

    if threads:
        # one setting of the whole process, fixed at its first use
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)


class SavedModel(Format):
    """A folder with ``saved_model.pb``, its signature named by the specs."""

    name = "saved_model"
    suffix = "saved_model.pb"

    def load(self, folder: Path, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
        """Open the artifact in TensorFlow; see ``Format.load``."""
        prepare_tensorflow(threads, device)
        return open_saved_model(self.weights(folder, artifact).parent, threads=threads)

    def write(self, lowered: Lowered, folder: Path) -> None:
        """Write a lowered network into ``folder``, which may exist."""
        import tensorflow as tf

        module = tf.Module()
        module.call, module.weights = lowered.call, lowered.weights
        name = lowered.output
        named = tf.function(
            lambda image: {name: lowered.call(image)},
            input_signature=[tf.TensorSpec(lowered.sides, tf.float32, name=lowered.input)],
            autograph=False,
        )
        options = tf.saved_model.SaveOptions(save_debug_info=False)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": named}, options=options)
        shutil.rmtree(folder / "assets", ignore_errors=True)


def open_saved_model(folder: Path, *, threads: int = 0) -> TensorflowRunner:
    """Open a SavedModel of one input and one output.

    Raises:
        ArtifactError: If TensorFlow can't read it.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["serving_default"]
    # a damaged folder fails in many ways
    except Exception as error:
        raise ArtifactError(
            f"TensorFlow can't read {folder}: {' '.join(str(error).split())[:160]}", hint="export it again"
        ) from error
    taken = next(iter(signature.structured_input_signature[1]))

    def run(image: Any, _keep: Any = loaded) -> Any:
        return next(iter(signature(**{taken: image}).values()))

    return TensorflowRunner(run, threads)


register(__name__, SavedModel())
