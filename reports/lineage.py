"""Who descends from whom: the page's teacher, the order of its lines, what a model is, the thesis's line beside it."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from compress.core.types import Artifact
from reports.recipes import recipe_name

Role = Literal["teacher", "train", "quantize", "distill", "prune", "other"]
ROLES: dict[Role, str] = {
    "teacher": "teacher",
    "train": "trained alone",
    "quantize": "quantized",
    "distill": "distilled",
    "prune": "pruned",
    "other": "other",
}
_ROLE_OF: dict[str, Role] = {"train": "train", "quantize": "quantize", "qat": "quantize", "distill": "distill",
                             "prune": "prune"}  # fmt: skip
_FLAGS = {"temperature": "T"}  # options whose flag has another name
_POSITIONAL = {"import": "file"}


@dataclass(frozen=True)
class Thesis:
    """What the thesis reports for one model, on its own data, as printed."""

    order: int
    label: str
    mb: str
    loss: str


def ancestors(artifact: Artifact, known: Mapping[str, Artifact]) -> list[Artifact]:
    """What it was made from and learned from, and those in turn, nearest first."""
    found: dict[str, Artifact] = {}
    queue = [artifact]
    while queue:
        current = queue.pop(0)
        for reference in (current.parent, current.teacher):
            if reference in known and reference not in found and reference != artifact.id:
                found[reference] = known[reference]
                queue.append(known[reference])
    return list(found.values())


def teacher_of(artifacts: Sequence[Artifact], measured: Collection[str]) -> Artifact:
    """The one model of a task that the others are compared with: the root that most others come from.

    Args:
        artifacts: All of one task, oldest first; at least one.
        measured: Ids of those that have rows; they win over equals that have none.
    """
    known = {artifact.id: artifact for artifact in artifacts}
    lines = {artifact.id: {a.id for a in ancestors(artifact, known)} for artifact in artifacts}
    roots = [artifact for artifact in artifacts if not lines[artifact.id]]

    def rank(root: Artifact) -> tuple[bool, bool, int, bool, str]:
        heirs = sum(root.id in line for line in lines.values())
        is_source = heirs > 0 and root.kind != "student"
        return is_source, root.kind == "teacher", heirs, root.id in measured, root.created

    return max(roots or artifacts, key=rank)


def role_of(artifact: Artifact, teacher: Artifact) -> Role:
    """What was done to get it, in one word."""
    return "teacher" if artifact.id == teacher.id else _ROLE_OF.get(artifact.method, "other")


def ordered(artifacts: Sequence[Artifact], teacher: Artifact, known: Mapping[str, Artifact]) -> list[Artifact]:
    """The thesis's order: teacher, student alone, int8, distilled by temperature; what it lacks comes after."""

    def key(artifact: Artifact) -> tuple[bool, bool, int, str, str]:
        line = thesis_of(artifact, known)
        is_teacher = artifact.id == teacher.id
        return not is_teacher, line is None, line.order if line else 0, artifact.method, artifact.created

    return sorted(artifacts, key=key)


def network_of(artifact: Artifact, known: Mapping[str, Artifact]) -> str:
    """Name of its network; that of the nearest ancestor where it has none of its own."""
    return next((a.network for a in (artifact, *ancestors(artifact, known)) if a.network), "")


def thesis_of(artifact: Artifact, known: Mapping[str, Artifact]) -> Thesis | None:
    """The thesis's figures for a model made the same way, if it has any."""
    mine: dict[str, Any] = {"network": network_of(artifact, known), "method": artifact.method, "dtype": artifact.dtype}
    if artifact.method == "distill":
        mine["temperature"] = artifact.options.get("temperature")
    for order, line in enumerate(_thesis().get(artifact.task, ())):
        if all(mine.get(field) == line.get(field) for field in ("network", "method", "dtype", "temperature")):
            return Thesis(order, line["label"], line["mb"], line["loss"])
    return None


def thesis_teacher(task: str) -> Thesis | None:
    """The thesis's own teacher for a task: its first line."""
    lines = _thesis().get(task, ())
    return Thesis(0, lines[0]["label"], lines[0]["mb"], lines[0]["loss"]) if lines else None


@cache
def _thesis() -> dict[str, list[dict[str, Any]]]:
    text = (Path(__file__).parent / "templates" / "thesis.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def describe(artifact: Artifact, teacher: Artifact, known: Mapping[str, Artifact]) -> str:
    """How it came to be, in a few words."""
    parent, learned = known.get(artifact.parent), known.get(artifact.teacher)
    words = {"train": "trained on labels" if artifact.id == teacher.id else "trained alone on labels",
             "import": "brought in from elsewhere"}.get(artifact.method, "")  # fmt: skip
    if artifact.method == "quantize":
        words = f"{artifact.dtype}, after training, from {parent.name if parent else 'elsewhere'}"
    elif artifact.method == "distill":
        words = f"learned from {learned.name if learned else 'a teacher no longer here'}"
        words += (
            f", T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{artifact.options['temperature']:g}"
            if artifact.options.get("temperature") is not None
            else ""
        )
    elif artifact.format == "tfjs" and not words:
        words = f"exported to TF.js from {parent.name if parent else 'elsewhere'}"
        words += f", {artifact.dtype} storage" if artifact.dtype != "float32" else ""
    elif not words:
        words = f"{artifact.method}, from {parent.name if parent else 'elsewhere'}"
    return f"the teacher, {words}" if artifact.id == teacher.id else words


def command_of(artifact: Artifact) -> str:
    """The command that makes this artifact again, from its manifest: every option spelled out, lineage by id."""
    options = dict(artifact.options)
    if artifact.teacher:
        options["teacher"] = artifact.teacher
    if artifact.parent:
        options["student" if artifact.method == "distill" else "model"] = artifact.parent
    if artifact.method == "distill":
        options |= _of_distill(artifact)
    if options.get("steps") is not None:
        options.pop("epochs", None)  # they exclude each other, and the steps are what was settled
    words = ["compress", artifact.method]
    positional = _POSITIONAL.get(artifact.method)
    if positional in options:
        words.append(str(options.pop(positional)))
    for name, value in options.items():
        words += _flag(_FLAGS.get(name, name.replace("_", "-")), value)
    return shlex.join(words)


def _of_distill(artifact: Artifact) -> dict[str, Any]:
    """Flags of distillation whose values a manifest keeps otherwise; what it only knows by hash is left to fill in."""
    options = artifact.options
    recipe, taps, folders = options.get("recipe"), options.get("taps"), options.get("unlabelled")
    found: dict[str, Any] = {}
    if isinstance(recipe, Mapping):
        found["recipe"] = recipe_name(recipe, artifact.task) or "FILE.toml"
    if isinstance(taps, Mapping):
        found["taps"] = [f"{mine}={theirs}" for mine, theirs in taps.items()]
    if isinstance(folders, int):
        found["unlabelled"] = ["DIR"] * folders
    if options.get("perceptor"):
        found["perceptor"] = "FILE"
    return found


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list | tuple):
        return [word for item in value for word in (f"--{name}", str(item))]
    if isinstance(value, dict):
        return [word for key, item in value.items() for word in _flag(f"{name}.{key}", item)]
    return [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
