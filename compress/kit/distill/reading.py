"""Reads the TOML of a recipe, and says everything that is wrong with it at once."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from compress.core.errors import UsageError, did_you_mean
from compress.kit.distill.term import Balance, Norm, Term
from compress.kit.distill.terms import KINDS

_KEYS = ("about", "tasks", "taps", "terms")
_MANY = 100  # characters of a value that a message shows


class Written(NamedTuple):
    """What the file of a recipe says; see ``recipe.Recipe``."""

    about: str
    tasks: tuple[str, ...]
    terms: tuple[Term, ...]
    taps: Mapping[str, str] | Literal["auto"]


def parse(content: bytes, name: str) -> Written:
    """Read the TOML of a recipe.

    Args:
        content: Of the file.
        name: What to call it in a message.

    Raises:
        UsageError: If it is no TOML, or has keys, names or values that can't be; all of them are listed.
    """
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"recipe '{name}' is no TOML: {error}", hint="see a shipped one for the form") from error
    problems = [f"{_cut(key)}: unknown key{did_you_mean(key, _KEYS)}" for key in table if key not in _KEYS]
    about = _take(table, "about", _text, "", problems, "")
    tasks = _take(table, "tasks", _texts, (), problems, "")
    taps = _take(table, "taps", _taps, "auto", problems, "")
    terms = _terms(table.get("terms"), problems)
    if "tasks" not in table:
        problems.append('tasks: missing, wanted names of tasks such as ["saliency"]')
    if problems:
        raise UsageError(f"recipe '{name}': {'; '.join(problems)}", hint="see a shipped one for the form")
    return Written(about, tasks, tuple(terms), taps)


def _terms(table: Any, problems: list[str]) -> list[Term]:
    if not isinstance(table, dict) or not table:
        problems.append(f"terms: found {_shown(table)}, wanted a table [terms.NAME] for each term")
        return []
    found = [_term(name, entry, problems) for name, entry in table.items()]
    terms = [term for term in found if term is not None]
    if len(terms) == len(table) and not any(term.weight > 0 for term in terms):
        problems.append("terms: every weight is 0, wanted one above it")
    return terms


def _term(name: str, entry: Any, problems: list[str]) -> Term | None:
    place = f"terms.{_cut(name)}."
    if not isinstance(entry, dict):
        problems.append(f"terms.{_cut(name)}: found {_shown(entry)}, wanted a table")
        return None
    if name == "loss" or not name:
        problems.append(f"terms.{name or '(empty)'}: that name is taken by the sum, wanted another")
    loss = _take(entry, "loss", _text, name, problems, place)
    if loss not in KINDS:
        problems.append(
            f"{place}loss: unknown loss '{_cut(loss)}'{did_you_mean(loss, KINDS)}; known: {', '.join(KINDS)}"
        )
        return None
    kind = KINDS[loss]
    for key in entry:
        if key not in kind.known():
            allowed = ", ".join(kind.known())
            problems.append(
                f"{place}{_cut(key)}: unknown key of {loss}{did_you_mean(key, kind.known())}; known: {allowed}"
            )
    if "weight" not in entry:
        problems.append(f"{place}weight: missing, wanted a number")
    values: dict[str, Any] = {
        "weight": _take(entry, "weight", _weight, 1.0, problems, place),
        "T": _take(entry, "T", _temperature, None, problems, place),
        "on": _take(entry, "on", _choice(kind.on or ("outputs",)), (kind.on or ("outputs",))[0], problems, place),
        "of": _take(entry, "of", _choice(kind.of or ("teacher",)), _first_of(loss), problems, place),
        "norm": _take(entry, "norm", _choice(get_args(Norm)), "l1", problems, place),
        "balance": _take(entry, "balance", _choice(get_args(Balance)), "none", problems, place),
        "confidence": _take(entry, "confidence", _truth, False, problems, place),
        "steps": _take(entry, "steps", _count, 1, problems, place),
    }
    if values["confidence"] and values["of"] != "teacher":
        problems.append(f"{place}confidence: it is the teacher's, found of = '{values['of']}', wanted of = 'teacher'")
    return Term(name=name, loss=loss, **values)


def _first_of(loss: str) -> str:
    if loss == "hard":
        return "labels"
    return (KINDS[loss].of or ("teacher",))[0]


class _OddError(Exception):
    """A value of the wrong kind; says what is wanted."""


def _take(
    table: Mapping[str, Any], key: str, read: Callable[[Any], Any], default: Any, problems: list[str], place: str
) -> Any:
    if key not in table:
        return default
    try:
        return read(table[key])
    except _OddError as odd:
        problems.append(f"{place}{key}: found {_shown(table[key])}, wanted {odd}")
        return default


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()  # as TOML has it
    try:
        return _cut(repr(value))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= _MANY else f"{text[:_MANY]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _OddError("a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise _OddError('names such as ["saliency"]')
    return tuple(value)


def _taps(value: Any) -> Mapping[str, str] | str:
    if value == "auto":
        return "auto"
    if not isinstance(value, dict) or not value or not all(isinstance(path, str) for path in value.values()):
        raise _OddError('"auto" or a table of "student.path" = "teacher.path"')
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _OddError("a number")
    try:
        number = float(value)
    except OverflowError:
        raise _OddError("a finite number") from None
    if not math.isfinite(number):
        raise _OddError("a finite number")
    return number


def _weight(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise _OddError("a number from 0")
    return number


def _temperature(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise _OddError("a number above 0")
    return number


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8:
        raise _OddError("a whole number, 1 to 8")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _OddError("true or false")
    return value


def _choice(known: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise _OddError(" or ".join(f"'{name}'" for name in known))
        return str(value)

    return read
