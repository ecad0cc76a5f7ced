"""Bring in a network from elsewhere: any ONNX file, or a checkpoint of a network of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from compress.core.errors import UsageError
from compress.core.options import Making
from compress.core.store import Store
from compress.core.types import Artifact


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Making):
    """Flags of `compress import`."""

    teacher: str = ""
    """Network the checkpoint belongs to; for .pth and .safetensors files."""
    task: str = "saliency"
    """Task of an ONNX file."""
    size: int | None = None
    """Pixels a side to run an ONNX file of free size at; the task's own when not given."""
    scale: Literal["255", "max"] | None = None
    """What pixel values are divided by: 255, or each photo's maximum."""
    mean: tuple[float, float, float] | None = None
    """Subtracted after scaling, a value for each channel."""
    std: tuple[float, float, float] | None = None
    """Divided by after that."""
    fit: Literal["stretch", "pad", "native"] | None = None
    """How photos of another size are brought in: resized, letterboxed, or as they are (a network of any size)."""
    output: str = ""
    """Output of an ONNX file to take; the first when not given."""


def run(
    file: Annotated[Path, Parameter(help=".onnx, .pth or .safetensors file.")],
    *own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    options: Options = Options(),
) -> Artifact:
    """Bring in a network from elsewhere: any ONNX file, or a checkpoint of a network of ours."""
    from compress.core.networks import find_network
    from compress.jobs.desk import tell
    from compress.jobs.flags import fitting, take
    from compress.jobs.foreign import Reading, import_checkpoint, import_onnx

    store = Store(options.store)
    if file.suffix == ".onnx":
        take((), own, "an ONNX file", options)
        reading = Reading(
            options.task,
            options.size,
            options.scale,
            options.mean,
            options.std,
            options.fit,
            options.output,
            options.name,
        )
        artifact = import_onnx(store, file, reading, again=options.again)
    elif options.teacher:
        network = find_network(options.teacher)
        flags = take((network.build,), own, network.name, options)
        built_with = fitting(flags.values[0], {}, network.build)
        artifact = import_checkpoint(store, file, network, built_with, name=options.name, again=options.again)
    else:
        raise UsageError(f"{file} is not .onnx", hint="say whose checkpoint it is: --teacher u2net")
    tell(options, artifact, store)
    return artifact
