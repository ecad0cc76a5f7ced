"""Chains of stages: a TOML file whose tables are commands, each made from what an earlier one made."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from compress.core.console import log
from compress.core.errors import UsageError, did_you_mean
from compress.core.options import Common
from compress.core.registry import Room
from compress.core.types import Artifact

METHODS: Room[object] = Room("compress.methods", "method", dashed=True)
EARLIER = "@"  # "@name" is what the stage of that name made, "@" alone what the one before did
_FORM = 'write [[stage]], then lines such as run = "prune"'
_OWN = ("run", "as")
_SHARED = ("store", "quiet", "resume")  # flags of `compress run` that every stage gets
_INPUT = {"distill": "student", "import": "", "train": ""}  # flag that a stage's own input is; --model elsewhere


@dataclass(frozen=True)
class Link:
    """One stage: its name in the chain, the method, and its flags as in the file."""

    name: str
    method: str
    flags: Mapping[str, Any]
    file: str = ""  # of import: what it reads


@dataclass(frozen=True)
class Chain:
    """Stages in order."""

    path: Path
    links: tuple[Link, ...]


def read_chain(path: Path) -> Chain:
    """Read a chain. Keys above the stages are flags of every stage that takes them.

    A stage is ``[[stage]]`` with ``run = "prune"`` and flags as keys; ``as`` names it for later stages. Its model (the
    student of ``distill``) is what the stage before made, unless told otherwise.

    Raises:
        UsageError: If it is no TOML, names no stage, an unknown method, or a stage that is not before it.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}", hint="give a TOML file with [[stage]] tables")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is no TOML: {error}", hint='write [[stage]], then lines such as run = "prune"'
        ) from error
    stages = table.pop("stage", None)
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise UsageError(f"{path} has no stages", hint=_FORM)
    links: list[Link] = []
    for number, stage in enumerate(stages, start=1):
        links.append(_link(path, number, stage, table, links))
    known = {key for link in links for key in _taken(link.method)}
    odd = [key for key in table if key.replace("-", "_") not in known]
    if odd:
        raise UsageError(
            f"{path}: no stage takes {odd[0]}{did_you_mean(odd[0], known)}", hint="see compress METHOD --help"
        )
    return Chain(path, tuple(links))


def _link(path: Path, number: int, stage: Mapping[str, Any], shared: Mapping[str, Any], before: list[Link]) -> Link:
    method = stage.get("run", "")
    if method not in METHODS.names() or method == "run":
        names = [name for name in METHODS.names() if name != "run"]
        raise UsageError(f"{path}, stage {number}: run is '{method}'{did_you_mean(str(method), names)}",
                         hint=f"methods: {', '.join(names)}")  # fmt: skip
    name = str(stage.get("as", method if method not in {link.name for link in before} else f"{method}-{number}"))
    if name in {link.name for link in before}:
        raise UsageError(f"{path}, stage {number}: two stages are called '{name}'", hint='give it another: as = "..."')
    taken = _taken(method)
    flags = {key.replace("-", "_"): value for key, value in shared.items() if key.replace("-", "_") in taken}
    flags |= {key.replace("-", "_"): value for key, value in stage.items() if key not in _OWN}
    file = str(flags.pop("file", "")) if method == "import" else ""
    entry = _INPUT.get(method, "model")
    if before and entry in taken and entry not in flags:
        flags[entry] = EARLIER
    for key, value in flags.items():
        if isinstance(value, str) and value.startswith(EARLIER):
            _meant(path, number, key, value, before)
    return Link(name, method, flags, file)


def _meant(path: Path, number: int, key: str, value: str, before: list[Link]) -> None:
    names = [link.name for link in before]
    wanted = value.removeprefix(EARLIER)
    if not names or (wanted and wanted not in names):
        raise UsageError(
            f"{path}, stage {number}: {key} is '{value}', no stage before it is called so{did_you_mean(wanted, names)}",
            hint=f"stages before: {', '.join(names) or 'none'}",
        )


def _taken(method: str) -> set[str]:
    """Flags of a method, as keys of the file: by their names on the command line, T among them."""
    options = get_type_hints(_method(method))["options"]
    names = {field.name for field in fields(options)}
    return names - {"temperature"} | {"T"} if "temperature" in names else names


def _method(method: str) -> Callable[..., Any]:
    run: Callable[..., Any] = importlib.import_module(f"compress.methods.{METHODS.stem(method)}").run
    return run


def run_chain(chain: Chain, options: Common) -> Artifact | None:
    """Run every stage in order, or say what would be run.

    Returns:
        What the last stage made; None after a dry run.
    """
    made: dict[str, Artifact] = {}
    last: Artifact | None = None
    for number, link in enumerate(chain.links, start=1):
        words = _words(link, options, made, last)
        log.info("stage %d of %d, %s: compress %s", number, len(chain.links), link.name, " ".join(words))
        if options.dry_run:
            print(f"would run compress {' '.join(words)}")
            continue
        artifact = _run(link.method, words[1:])
        if artifact is not None:
            made[link.name] = last = artifact
    return last


def _words(link: Link, options: Common, made: Mapping[str, Artifact], last: Artifact | None) -> list[str]:
    """The command line of a stage. In a dry run, what is not made yet stays as the file has it."""
    words = [link.method, *([link.file] if link.file else [])]
    taken = _taken(link.method)
    shared = {name: getattr(options, name) for name in _SHARED if name in taken and hasattr(options, name)}
    for key, value in {**shared, **link.flags}.items():
        for item in value if isinstance(value, list) else [value]:
            words += _word(key, item, made, last)
    return words


def _word(key: str, value: Any, made: Mapping[str, Artifact], last: Artifact | None) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        off = [f"--no-{key}"] if key == "augment" else []  # the one flag that is on by itself
        return [flag] if value else off
    if isinstance(value, str) and value.startswith(EARLIER):
        artifact = last if value == EARLIER else made.get(value.removeprefix(EARLIER))
        return [flag, artifact.id if artifact else value]
    return [flag, str(value)]


def _run(method: str, words: list[str]) -> Artifact | None:
    from cyclopts import App, CycloptsError, Parameter

    app = App(help_flags=(), version_flags=(), default_parameter=Parameter(negative=()))
    app.default(_method(method))
    try:
        made: Artifact | None = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"compress {method}: {text}", hint=f"see compress {method} --help") from error
    return made
