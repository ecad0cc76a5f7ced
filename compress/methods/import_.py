"""Bring in a network from elsewhere: any ONNX file, or a checkpoint of a network of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from compress.core.errors import UsageError
from compress.core.options import Making
from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    from compress.jobs.foreign import Reading


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Making):
    """Flags of `compress import`."""

    teacher: str = ""
    """Network the weights belong to: of .pth and .safetensors files, or of an ONNX file whose weights are moved into
    it. Or one of your own: package.module:function, without a file where that loads its weights itself."""
    task: str = ""
    """Task of an ONNX file or a network of your own; saliency when not given."""
    activated: Annotated[bool | None, Parameter(negative="--no-activated")] = None
    """Whether a network of your own ends on the task's activation, which is then undone; asked for when it seems so."""
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
    file: Annotated[Path | None, Parameter(help=".onnx, .pth or .safetensors file.", allow_leading_hyphen=True)] = None,
    *own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    options: Options = Options(),
) -> Artifact:
    """Bring in a network from elsewhere: any ONNX file, or a checkpoint of a network of ours."""
    from compress.jobs.desk import tell

    if file is not None and file.name.startswith("-"):  # a flag of the network's own: no file before it
        own = (str(file), *own)
        behind = [word for word in own if word.endswith((".onnx", ".pth", ".pt", ".safetensors"))]
        file = Path(behind[0]) if behind else None
        own = tuple(word for word in own if word not in behind[:1])
    if file is None and ":" not in options.teacher:
        raise UsageError("no file was given", hint="compress import FILE, an .onnx, .pth or .safetensors file")
    if file is not None and file.suffix != ".onnx" and not options.teacher:
        raise UsageError(f"{file} is not .onnx", hint="say whose checkpoint it is: --teacher u2net")
    store = Store(options.store)
    artifact = _taken(store, file, own, options) if options.teacher else _foreign(store, file, own, options)
    tell(options, artifact, store)
    return artifact


def _reading(options: Options, task: str) -> "Reading":
    from compress.jobs.foreign import Reading

    return Reading(
        task, options.size, options.scale, options.mean, options.std, options.fit, options.output, options.name
    )


def _foreign(store: Store, file: Path | None, own: Sequence[str], options: Options) -> Artifact:
    """An ONNX file, kept as it is."""
    from compress.jobs.flags import take
    from compress.jobs.foreign import import_onnx

    assert file is not None
    take((), own, "an ONNX file", options)
    return import_onnx(store, file, _reading(options, options.task or "saliency"), again=options.again)


def _taken(store: Store, file: Path | None, own: Sequence[str], options: Options) -> Artifact:
    """Weights for a network that is built here."""
    from compress.core.networks import find_network, is_reference
    from compress.jobs.flags import fitting, take

    users = is_reference(options.teacher)
    network = find_network(options.teacher, options.task if users else "")
    if not users and options.task not in ("", network.task):
        raise UsageError(f"{network.name} is for {network.task}, found --task {options.task}", hint="leave --task out")
    if not users and options.activated is not None:
        raise UsageError(f"--activated is for networks of your own, {network.name} is ours", hint="leave it out")
    flags = take((network.build,), own, network.name, options)
    built_with = fitting(flags.values[0], {}, network.build)
    reading = _reading(options, network.task)
    if users:
        built_with["activated"] = bool(options.activated)
    if file is not None and file.suffix == ".onnx":
        from compress.jobs.moved import import_weights

        return import_weights(store, file, network, built_with, reading, again=options.again)
    if users:
        from compress.jobs.users import import_user

        del built_with["activated"]
        return import_user(
            store, options.teacher, file, reading, options=built_with, activated=options.activated, again=options.again
        )
    from compress.jobs.foreign import import_checkpoint

    assert file is not None
    return import_checkpoint(store, file, network, built_with, name=options.name, again=options.again, reading=reading)
