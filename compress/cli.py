"""The `compress` command: one sub-command per file in methods/, plus list and show."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from cyclopts import App, Parameter

from compress import __version__
from compress.core.console import log
from compress.core.launch import launch, value_of
from compress.core.networks import STUDENTS, TEACHERS
from compress.core.options import Common
from compress.core.registry import Room
from compress.core.store import Store
from compress.core.types import Artifact, to_json

METHODS: Room[object] = Room("compress.methods", "method")
ROOMS: dict[str, Room[object]] = {
    "teachers": TEACHERS,  # type: ignore[dict-item]
    "students": STUDENTS,  # type: ignore[dict-item]
    "tasks": Room("compress.tasks", "task"),
    "methods": METHODS,
    "formats": Room("compress.formats", "format"),
    "targets": Room("benchmarks.targets", "target"),
}

app = App(
    name="compress",
    version=__version__,
    help="Turn a trained image-to-image network into a small, verified student, and keep what it cost.",
    default_parameter=Parameter(negative=()),  # no --no-quiet beside --quiet
    suppress_keyboard_interrupt=False,  # the launcher says what an interrupted run kept
)
for _name in METHODS.names():
    _command = _name.replace("_", "-")
    app.command(f"compress.methods.{METHODS.stem(_name)}:run", name=_command, help=METHODS.help(_name))
app.register_install_completion_command()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listing(Common):
    """Flags of `compress list` and `compress show`."""


What = Literal["artifacts", "teachers", "students", "tasks", "methods", "formats", "targets"]


@app.command(name="list", help="List artifacts, or the members of a room.")
def list_(what: What = "artifacts", *, options: Listing = Listing()) -> None:
    """List artifacts, or the members of a room.

    Args:
        what: The room.
        options: Where, and how to print it.
    """
    if what == "artifacts":
        _list_artifacts(Store(options.store), options)
        return
    room = ROOMS[what]
    typed = {name: name.replace("_", "-") if what == "methods" else name for name in room.names()}
    members = [{"name": typed[name], "help": room.help(name)} for name in typed]
    width = max(map(len, typed.values()))
    if options.json:
        print(json.dumps(members))
    for entry in () if options.json else members:
        print(f"{entry['name']:<{width}}  {entry['help']}")


def _list_artifacts(store: Store, options: Listing) -> None:
    artifacts = store.artifacts()
    if options.json:
        print(json.dumps([to_json(artifact) for artifact in artifacts]))
        return
    if not artifacts:
        log.info("no artifacts in %s; `compress train --teacher u2net_big` makes one", store.root)
        return
    print(f"{'id':<12}  {'made (UTC)':<16}  {'name':<28} {'format':<12} {'dtype':<8} {'MB':>8}  metrics")
    for artifact in artifacts:
        print(_line(artifact))


def _line(artifact: Artifact) -> str:
    metrics = " ".join(f"{name} {value:.4g}" for name, value in artifact.metrics.items())
    mark = "  REJECTED" if artifact.notes.get("rejected") else ""
    return (
        f"{artifact.id}  {artifact.created[:16].replace('T', ' ')}  {artifact.name:<28} {artifact.format:<12} "
        f"{artifact.dtype:<8} {artifact.bytes / 1e6:>8.2f}  {metrics}{mark}"
    )


@app.command(help="Show an artifact: what it is, what it was made from, how it scored.")
def show(model: Annotated[str, Parameter(help="Id, id prefix or name.")], *, options: Listing = Listing()) -> None:
    """Show an artifact: what it is, what it was made from, how it scored."""
    store = Store(options.store)
    artifact = store.get(model)
    record = to_json(artifact)
    if options.json:
        print(json.dumps(record))
        return
    record["bytes"] = artifact.bytes
    record["folder"] = str(store.folder(artifact))
    for name, value in record.items():
        print(f"{name:<16} {json.dumps(value) if isinstance(value, dict | list | tuple) else value}")


def _own_flags(arguments: Sequence[str]) -> None:
    """Help of one network's training tells its own flags too: reading them needs torch, so only when asked."""
    name = value_of("--teacher", arguments)
    if arguments[:1] != ["train"] or name is None:
        return
    from compress.core.networks import find_network
    from compress.jobs.flags import describe, functions_of
    from compress.tasks import TASKS

    network = find_network(name)
    print(f"Flags of {name}'s own:")
    print("\n".join(describe(functions_of(network, TASKS.get(network.task)))))


def main() -> NoReturn:
    """Run the command line."""
    launch(app, more_help=_own_flags, lenient=("train", "distill", "evaluate", "import"))
