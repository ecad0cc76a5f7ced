"""A recipe of distillation: a small TOML file that names terms, their weights, and the layers that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compress.core.errors import UsageError, unknown
from compress.kit.distill.reading import parse
from compress.kit.distill.term import Term
from compress.kit.distill.terms import KINDS
from compress.kit.distill.view import View

FOLDER = Path(__file__).parents[2] / "recipes"
LARGEST = 1 << 16  # bytes: a recipe is a page


@dataclass(frozen=True)
class Recipe:
    """Terms that are summed.

    Args:
        name: Of the shipped file, or the path of the user's.
        about: One line for people.
        tasks: What it is for.
        terms: The summands, in the file's order.
        taps: Paths of the student's layers with those of the teacher's, or "auto".
    """

    name: str
    about: str
    tasks: tuple[str, ...]
    terms: tuple[Term, ...]
    taps: Mapping[str, str] | Literal["auto"] = "auto"

    @property
    def needs_taps(self) -> bool:
        """Whether a term compares maps from inside the networks."""
        return any(term.on == "taps" for term in self.terms)

    @property
    def adapted(self) -> bool:
        """Whether a term on taps wants maps of equal width: a 1x1 adaptor for each pair whose widths differ."""
        return any(term.on == "taps" and KINDS[term.loss].adapted for term in self.terms)

    @property
    def tempered(self) -> bool:
        """Whether the user's T decides anything: a tempered term has none of its own."""
        return any(_softens(term) for term in self.terms)

    @property
    def needs_perceptor(self) -> bool:
        """Whether a term looks through a frozen feature network."""
        return any(term.on == "perceptor" or term.loss == "perceptual" for term in self.terms)

    @property
    def needs_labels(self) -> bool:
        """Whether nothing is left of it where no photo has labels."""
        return all(term.of == "labels" for term in self.terms)

    @property
    def wanted(self) -> Mapping[str, str] | None:
        """The layers the file names, for ``match_taps``; None where they are to be found."""
        return None if self.taps == "auto" else self.taps

    def settings(self) -> dict[str, Any]:
        """Everything that decides a result, as plain JSON, for a stage's key and the manifest: no name, no comment."""
        found: dict[str, Any] = {"terms": {term.name: _settings(term) for term in self.terms}}
        if self.needs_taps:
            found["taps"] = "auto" if self.taps == "auto" else dict(self.taps)
        return found

    def loss(self, view: View) -> dict[str, Tensor]:
        """Return "loss", the weighted sum, and the value of each term by name: unweighted, without gradient.

        Terms of labels are left out where the batch has no "target", and 0 where no row of it is labelled; those of
        outputs that the two networks don't both have are left out. Computed in float32 whatever autocast says.

        Raises:
            UsageError: If no term is left, or T is not 1 and no term is left that it could soften.
        """
        with torch.autocast(view.student[0].device.type, enabled=False):
            computed = {term.name: (term, KINDS[term.loss].compute(view, term)) for term in self.terms}
        found = {name: (term, value) for name, (term, value) in computed.items() if value is not None}
        if view.temperature != 1 and self.tempered and not any(_softens(term) for term, _ in found.values()):
            raise UsageError(
                f"T = {view.temperature:g} has no meaning here: what recipe '{self.name}' softens "
                f"({', '.join(term.name for term in self.terms if _softens(term))}) is not among what teacher and "
                "student share",
                hint="give --T 1, or take networks whose outputs include features, as pix2pixhd_retouch's and "
                "colorizer's do",
            )
        if not found:
            raise UsageError(
                f"recipe '{self.name}' has nothing to learn from here: "
                f"{', '.join(term.name for term in self.terms)} need labels, or outputs that both networks have",
                hint="give --data with labels, or a recipe with a term of the teacher's picture",
            )
        total = torch.stack([term.weight * value for term, value in found.values()]).sum()
        return {"loss": total, **{name: value.detach() for name, (_, value) in found.items()}}


def _softens(term: Term) -> bool:
    return KINDS[term.loss].tempered and term.T is None


def _settings(term: Term) -> dict[str, Any]:
    keys = [key for key in KINDS[term.loss].known() if key != "T" or term.T is not None]
    return {key: getattr(term, key) for key in keys}


def default_recipe(task: str) -> str:
    """Name of the recipe that a task's students learn by where the user names none: the task's own."""
    return task


@cache
def _shipped() -> Mapping[str, Recipe]:
    return {
        path.stem: Recipe(path.stem, *parse(path.read_bytes(), path.stem)) for path in sorted(FOLDER.glob("*.toml"))
    }


def recipe_names(task: str) -> tuple[str, ...]:
    """Names of the shipped recipes of a task, its default first."""
    names = [name for name, recipe in _shipped().items() if task in recipe.tasks]
    return tuple(sorted(names, key=lambda name: (name != default_recipe(task), name)))


def read_recipe(reference: str | Path, task: str) -> Recipe:
    """Read a recipe: a shipped one by its name, or a file that ends on .toml.

    Raises:
        UsageError: If there is none, it is for another task, or the file is damaged or has keys, names or values that
            can't be; all of them are listed.
    """
    if isinstance(reference, str) and not reference.endswith(".toml"):
        found = _shipped().get(reference)
        if found is None:
            raise unknown(f"recipe for {task}", reference, recipe_names(task))
    else:
        found = Recipe(str(reference), *parse(_bytes(Path(reference)), str(reference)))
    if task not in found.tasks:
        raise UsageError(
            f"recipe '{found.name}' is for {', '.join(found.tasks)}, the task at hand is {task}",
            hint=f"recipes for {task}: {', '.join(recipe_names(task))}",
        )
    return found


def _bytes(file: Path) -> bytes:
    if not file.is_file():
        raise UsageError(f"no recipe file '{file}'", hint="name a file, or a shipped recipe without .toml")
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"recipe '{file}' can't be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise UsageError(f"'{file}' is no recipe: found more than {LARGEST} bytes, wanted a page of TOML")
    return content
