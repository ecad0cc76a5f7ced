"""Flags of a network's or task's own: read off the arguments of the functions that take them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from compress.core.errors import UsageError, did_you_mean
from compress.core.networks import Network
from compress.core.store import sha256_of


@dataclasses.dataclass(frozen=True)
class Taken:
    """What the flags said: keyword arguments for each function, in the order the functions were given."""

    values: tuple[dict[str, Any], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """All of it in plain JSON; a file counts by its content, not by where it lies."""
        return {name: _plain(value) for part in self.values for name, value in part.items() if value is not None}


def take(functions: Sequence[Callable[..., Any]], tokens: Sequence[str], whose: str, common: Any) -> Taken:
    """Parse ``tokens`` into arguments of ``functions``; what has a default is a flag.

    Args:
        functions: Their arguments with defaults become flags: ``stages: bool = True`` gives ``--no-stages``.
        tokens: Words of the command line that no common flag took.
        whose: What the functions belong to, for messages.
        common: The command's own options, with its config file, whose further keys are flags too.

    Raises:
        UsageError: For an unknown flag or a value of the wrong type.
    """
    from cyclopts import App, CycloptsError

    fields = [_flags(function) for function in functions]
    tokens = [*_configured(common, tokens), *tokens]
    if not tokens:
        return Taken(tuple({name: default for name, (_, default, _) in part.items()} for part in fields))
    app = App(help_flags=(), version_flags=())
    app.default(_taker(fields))
    try:
        given: Mapping[str, Any] = app(list(tokens), exit_on_error=False, print_error=False,
                                       result_action="return_value")  # fmt: skip
    except CycloptsError as error:
        mine = [_flag(name) for part in fields for name in part]
        text = " ".join(str(error).split()).partition(". Did you mean")[0].rstrip(".")
        word = getattr(getattr(error, "token", None), "keyword", None) or ""
        known = [*mine, *(_flag(field.name) for field in dataclasses.fields(common))]
        raise UsageError(
            text + (did_you_mean(word, known) if word not in known else ""),
            hint=f"flags of {whose}'s own: {', '.join(mine) or 'none'}; all others: see --help",
        ) from error
    return Taken(tuple({name: given[name] for name in part} for part in fields))


def _configured(common: Any, tokens: Sequence[str]) -> list[str]:
    """Words for those keys of the config file that no common option has; a flag on the command line wins."""
    if common.config is None:
        return []
    import tomllib

    ours = {field.name for field in dataclasses.fields(common)}
    ours |= {token.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_") for token in tokens}
    words: list[str] = []
    for key, value in tomllib.loads(common.config.read_text(encoding="utf-8")).items():
        name = key.replace("-", "_")
        if name in ours:
            continue
        if isinstance(value, bool):
            words.append(_flag(name if value else f"no_{name}"))
        else:
            words += [
                word for item in (value if isinstance(value, list) else [value]) for word in (_flag(name), str(item))
            ]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def describe(functions: Sequence[Callable[..., Any]]) -> list[str]:
    """One line of help for each flag: name, default, meaning."""
    lines = []
    for function in functions:
        for name, (hint, default, told) in _flags(function).items():
            flag = _flag(f"no_{name}" if default is True else name)
            literal = str(hint).startswith("typing.Literal")
            choices = f" ({'|'.join(map(str, typing.get_args(hint)))})" if literal else ""
            meaning = told or ("Cap of every channel count, for small trials." if name == "width" else "")
            lines.append(f"  {flag:<24} {meaning}{choices} [default: {default}]")
    return lines


def functions_of(network: Network, task: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what takes the flags of training ``network``: its builder, and how it is taught."""
    return network.build, network.teach or task.teach


def fitting(given: Mapping[str, Any], asked: Mapping[str, Any], build: Callable[..., Any]) -> dict[str, Any]:
    """Join the builder's flags with what the data asks of it, which wins over a default.

    Flags that are None are left out: the builder's own choice.

    Raises:
        UsageError: If a flag was given that the data contradicts.
    """
    defaults = {name: default for name, (_, default, _) in _flags(build).items()}
    for name, value in asked.items():
        if name not in defaults:
            raise UsageError(
                f"the data asks for {name} = {value}, which {build.__module__} does not take",
                hint=f"give its builder an argument: {name}: int = {value}",
            )
        if name in given and given[name] not in (value, defaults[name]):
            raise UsageError(f"{_flag(name)} {given[name]} does not fit the data, which has {value}",
                             hint="leave the flag out")  # fmt: skip
    return {name: value for name, value in {**given, **asked}.items() if value is not None}


Flags = dict[str, tuple[Any, Any, str]]  # type, default, help by name


def _flags(function: Callable[..., Any]) -> Flags:
    hints = typing.get_type_hints(function)
    told = _told(inspect.getdoc(function) or "")
    return {
        name: (hints.get(name, str), parameter.default, told.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def _told(doc: str) -> dict[str, str]:
    """What a docstring's Args section says of each argument, its first sentence."""
    _, _, section = doc.partition("Args:\n")
    found: dict[str, str] = {}
    for match in re.finditer(r"^    (\w+): (.*(?:\n {8,}.*)*)", section.split("\n\n")[0], re.MULTILINE):
        found[match[1]] = " ".join(match[2].split())
    return found


def _taker(fields: Sequence[Flags]) -> Callable[..., Mapping[str, Any]]:
    """A function with all flags as keyword-only arguments, which returns them."""
    from cyclopts import Parameter

    def taker(**given: Any) -> Mapping[str, Any]:
        return defaults | given

    flags = {name: flag for part in fields for name, flag in part.items()}
    defaults = {name: default for name, (_, default, _) in flags.items()}
    # --no-x turns off what is on; nothing else has a negative
    hints = {
        name: Annotated[hint, Parameter(negative=None if default is True else (), negative_iterable=())]
        for name, (hint, default, _) in flags.items()
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=defaults[name], annotation=hints[name]) for name in flags]
    taker.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    taker.__annotations__ = hints
    return taker


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        if not value.is_file():
            raise UsageError(f"no file {value}", hint="give the path of a file")
        return f"sha256:{sha256_of(value)}"
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
