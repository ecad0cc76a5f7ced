"""Which shipped recipe a student learned by: its manifest keeps the losses themselves, and no name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import compress

_UNSAID = {"T": None, "on": "outputs", "of": "teacher", "confidence": False, "norm": "l1", "balance": "none",
           "steps": 1}  # fmt: skip  # what a term means that a file leaves out


def recipe_name(settings: Mapping[str, Any], task: str) -> str:
    """Name of the shipped recipe that has just these terms; "" where none has, or nothing is known.

    Args:
        settings: The option "recipe" of a manifest: its "terms" by name, and "taps" where it compares some.
        task: The student's; its own recipe wins over others of the same terms.
    """
    terms = terms_of(settings)
    same = [name for name, (tasks, theirs) in _shipped().items() if task in tasks and _equal(terms, theirs)]
    return min(same, key=lambda name: (name != task, name), default="") if terms else ""


def terms_of(settings: Any) -> dict[str, dict[str, Any]]:
    """The terms of the option "recipe" by name; none where a manifest was made before there were recipes."""
    terms = settings.get("terms") if isinstance(settings, Mapping) else None
    return {str(name): dict(term) for name, term in terms.items()} if isinstance(terms, Mapping) else {}


def term_words(name: str, term: Mapping[str, Any]) -> str:
    """One term in words: "kl × 1", "channels × 3 on taps, T = 4"."""
    loss = str(term.get("loss") or name)
    said = f"{name} × {term.get('weight', 1.0):g}" + (f" ({loss})" if loss != name else "")
    said += f" on {term['on']}" if term.get("on", "outputs") != "outputs" else ""
    return said + (f", T = {term['T']:g}" if term.get("T") is not None else "")


def _equal(terms: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]) -> bool:
    def whole(name: str, term: Mapping[str, Any], key: str) -> Any:
        return term.get(key, {"loss": name, "weight": 1.0, **_UNSAID}.get(key))

    return set(terms) == set(theirs) and all(
        whole(name, term, key) == whole(name, theirs[name], key)
        for name, term in terms.items()
        for key in {*term, *theirs[name]}
    )


@cache
def _shipped() -> dict[str, tuple[list[str], dict[str, dict[str, Any]]]]:
    found = {}
    for path in sorted((Path(compress.__file__).parent / "recipes").glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = (list(table.get("tasks") or ()), terms_of(table))
    return found
