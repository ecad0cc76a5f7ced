"""Networks from elsewhere: an ONNX file, or a checkpoint of a network we know, turned into an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from compress.core.console import log
from compress.core.errors import ArtifactError, UsageError
from compress.core.machine import commit, this_machine, versions
from compress.core.networks import Network, kind_of
from compress.core.store import Store, sha256_of, stage_key
from compress.core.types import Artifact, ImageSpec
from compress.formats.onnx import OnnxRunner, Port, Signature, extract, inspect
from compress.formats.safetensors import Safetensors
from compress.jobs.desk import now
from compress.jobs.evaluate import spec_at
from compress.kit.graph import count_macs, count_parameters, load_state, read_checkpoint
from compress.kit.images import prepare
from compress.kit.ship.count import count_onnx_macs, count_onnx_parameters
from compress.kit.ship.runtime import read_onnx
from compress.tasks import TASKS


@dataclass(frozen=True)
class Reading:
    """How a foreign file wants its pictures. None: the task's own preprocessing."""

    task: str = "saliency"
    size: int | None = None
    scale: Literal["255", "max"] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    fit: Literal["stretch", "pad", "native"] | None = None
    output: str = ""
    name: str = ""


def import_onnx(store: Store, path: Path, reading: Reading, *, again: bool = False) -> Artifact:
    """Copy an ONNX file, cut to its one image output, into the store; the same file read the same way is found again.

    Raises:
        ArtifactError: If it is no ONNX file, or has no input or output that is an image.
    """
    if not path.is_file():
        raise ArtifactError(f"no file {path}", hint="give the path of an .onnx file")
    key = stage_key("import", asdict(reading), lineage=[sha256_of(path)], data="")
    artifact = None if again else store.find(key)
    if artifact is not None:
        return artifact
    signature = inspect(path)
    spec = _input(signature, reading, path)
    output = replace(TASKS.get(reading.task).output, name=_output(signature, reading, path))
    output = replace(output, height=spec.height, width=spec.width, dynamic=spec.dynamic)
    with store.draft() as draft:
        extract(path, draft / "model.onnx", spec.name, output.name)
        model = read_onnx(draft / "model.onnx")
        described = record(
            key,
            reading.name or path.stem,
            reading.task,
            str(path),
            format="onnx",
            dtype=signature.dtype,
            input=spec,
            output=output,
            parameters=count_onnx_parameters(model),
            macs=count_onnx_macs(model, (spec.height, spec.width)),
        )
        return store.publish(draft, _tried(draft, described))


def import_checkpoint(
    store: Store,
    path: Path,
    network: Network,
    built_with: dict[str, Any],
    *,
    name: str = "",
    again: bool = False,
    reading: Reading = Reading(),
) -> Artifact:
    """Load a .pth or .safetensors file into one of our networks and publish it; nothing in the file is executed.

    Args:
        store: Where to publish.
        path: The file.
        network: Whose weights they are.
        built_with: Options of the network's builder.
        name: Of the artifact; the network's when empty.
        again: Import it although the store has it.
        reading: How it wants its pictures; its task and name don't count here.

    Raises:
        ArtifactError: If the file is not weights, or its keys are not the network's.
    """
    if not path.is_file():
        raise ArtifactError(f"no file {path}", hint="give the path of a .pth or .safetensors file")
    settings = {"teacher": network.name, "name": name, **built_with, **told(reading)}
    key = stage_key("import", settings, lineage=[sha256_of(path)], data="")
    found = None if again else store.find(key)
    if found is not None:
        return found
    module = network.build(**built_with)
    load_state(module, read_checkpoint(path))
    task = TASKS.get(network.task)
    size = reading.size or network.size
    described = record(
        key,
        name or network.name,
        task.name,
        str(path),
        network=network.name,
        kind=kind_of(network.name),
        format="safetensors",
        dtype="float32",
        input=as_told(spec_at(task.input, size), reading),
        output=spec_at(task.output_for(built_with), size),
        network_options=built_with,
        parameters=count_parameters(module),
        macs=count_macs(module, (size, size), channels=task.input.channels),
    )
    with store.draft() as draft:
        Safetensors().write(module, draft)
        return store.publish(draft, described)


def told(reading: Reading) -> dict[str, Any]:
    """What a reading says of the pictures, without what it leaves to the task: for a stage's key."""
    given = {"size": reading.size, "scale": reading.scale, "mean": reading.mean, "std": reading.std, "fit": reading.fit}
    return {name: value for name, value in given.items() if value is not None}


def as_told(spec: ImageSpec, reading: Reading) -> ImageSpec:
    """Return the spec of an input with a reading's own scale, mean, std and fit, where it has them.

    Raises:
        UsageError: If mean or std have another number of values than the spec has channels, or a std is 0.
    """
    for name, values in (("mean", reading.mean), ("std", reading.std)):
        if values is not None and (len(values) < spec.channels or (name == "std" and 0 in values)):
            raise UsageError(f"--{name} {' '.join(map(str, values))} can't be for {spec.channels} channels",
                             hint=f"give {spec.channels} values, those of std not 0")  # fmt: skip
    return replace(
        spec,
        scale=reading.scale or spec.scale,
        mean=tuple(reading.mean) if reading.mean else spec.mean,
        std=tuple(reading.std) if reading.std else spec.std,
        fit=reading.fit or spec.fit,
    )


def record(
    key: str,
    name: str,
    task: str,
    source: str,
    *,
    format: str,
    dtype: str,
    input: ImageSpec,
    output: ImageSpec,
    parameters: int,
    macs: int,
    network: str = "",
    network_options: dict[str, Any] | None = None,
    kind: Literal["teacher", "student", "foreign"] = "foreign",
    notes: dict[str, Any] | None = None,
) -> Artifact:
    """Fill in the manifest of a network that was not made here."""
    return Artifact(
        id="",
        name=name,
        kind=kind,
        task=task,
        network=network,
        network_options=network_options or {},
        format=format,
        dtype=dtype,
        method="import",
        options={"file": source},
        parent="",
        parent_sha256="",
        teacher="",
        key=key,
        input=input,
        output=output,
        files=(),
        parameters=parameters,
        macs=macs,
        data="",
        metrics={},
        machine=this_machine(),
        seed=0,
        versions=versions(),
        commit=commit(),
        created=now(),
        seconds=0.0,
        notes=notes or {},
    )


def _input(signature: Signature, reading: Reading, path: Path) -> ImageSpec:
    spec = TASKS.get(reading.task).input
    # a network of ours takes any size; of a stranger that is only known when its owner says so
    spec = as_told(replace(spec, fit="stretch" if spec.fit == "native" else spec.fit), reading)
    fitting = [port for port in signature.inputs if len(port.shape) == 4 and port.shape[1] in (spec.channels, None)]
    if len(signature.inputs) != 1 or not fitting:
        raise ArtifactError(
            f"{path} takes {_ports(signature.inputs)}; wanted one image (N, {spec.channels}, H, W) for {reading.task}",
            hint="export the network with one image input",
        )
    _, _, height, width = fitting[0].shape
    size = reading.size or spec.height
    if reading.size and height not in (None, reading.size):
        raise ArtifactError(f"{path} runs at {height}x{width} only, --size {reading.size} was asked",
                            hint="leave --size out")  # fmt: skip
    return replace(
        spec,
        name=fitting[0].name,
        height=height or size,
        width=width or size,
        dynamic=height is None and width is None,
    )


def _output(signature: Signature, reading: Reading, path: Path) -> str:
    names = [port.name for port in signature.outputs]
    if reading.output and reading.output not in names:
        raise ArtifactError(f"{path} has no output '{reading.output}'", hint=f"it has: {', '.join(names)}")
    name = reading.output or names[0]
    if len(names) > 1 and not reading.output:
        log.info("%s has %d outputs (%s), taking the first; --output NAME takes another",
                 path.name, len(names), ", ".join(names))  # fmt: skip
    return name


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {list(port.shape)}" for port in ports) or "nothing"


def _tried(folder: Path, described: Artifact) -> Artifact:
    """Run one photo: the file must give a picture of the task's channels, and should keep to its range.

    How many classes it tells apart is the file's to say.
    """
    task = TASKS.get(described.task)
    photo = task.open(["builtin"], "test").original(0)["image"]
    runner = OnnxRunner(folder / "model.onnx")
    picture = runner(prepare(photo, described.input)[None])
    classes = task.output.color == "classes"
    wanted = "2 or more" if classes else str(task.output.channels)
    if picture.ndim != 4 or not (picture.shape[1] > 1 if classes else picture.shape[1] == task.output.channels):
        raise ArtifactError(
            f"output '{described.output.name}' has shape {picture.shape}, wanted (1, {wanted}, H, W)",
            hint="name another output with --output",
        )
    if picture.min() < task.output.low - 0.01 or picture.max() > task.output.high + 0.01:
        log.warning(
            "output '%s' ranges %.3g..%.3g, %s expects %g..%g: are these logits? metrics will suffer",
            described.output.name, picture.min(), picture.max(), task.name, task.output.low, task.output.high,
        )  # fmt: skip
    return replace(described, output=replace(described.output, channels=picture.shape[1]))
