"""A room: a package whose files are its members. The folder is the registry."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from compress.core.errors import unknown

T = TypeVar("T")
D = TypeVar("D")
_MEMBER = "__member__"


def member(thing: D) -> D:
    """Mark ``thing`` as what its file brings to the room it lies in.

    One file brings one thing; its name in the room is the file's stem.
    """
    module = importlib.import_module(thing.__module__)
    setattr(module, _MEMBER, thing)
    return thing


def register(module: str, thing: Any) -> None:
    """Put ``thing`` up as the member of the module named (for decorators that wrap)."""
    setattr(importlib.import_module(module), _MEMBER, thing)


@dataclass(frozen=True)
class Room(Generic[T]):
    """The members of a package: names and help from its files without importing them, values on demand.

    Args:
        package: Dotted name of the package.
        noun: What a member is called in messages, "teacher".
        dashed: Whether names are written with dashes, where a module's can only have underscores.
    """

    package: str
    noun: str
    dashed: bool = False

    def _folder(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations, self.package
        return Path(next(iter(spec.submodule_search_locations)))

    def names(self) -> list[str]:
        """Names of the members, sorted."""
        stems = (p.stem.rstrip("_") for p in self._folder().glob("*.py") if _public(p.stem))
        return sorted(stem.replace("_", "-") if self.dashed else stem for stem in stems)

    def help(self, name: str) -> str:
        """First line of the member's docstring, read without importing it."""
        return _first_doc_line(self._path(name))

    def stem(self, name: str) -> str:
        """Name of the module behind ``name``: "import_" for the member "import"."""
        return self._path(name).stem

    def get(self, name: str) -> T:
        """Import the one file behind ``name`` and return what it registered.

        Raises:
            UsageError: If the room has no such member.
        """
        module = importlib.import_module(f"{self.package}.{self.stem(name)}")
        thing: T = getattr(module, _MEMBER)
        return thing

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def _path(self, name: str) -> Path:
        if name not in self:
            raise unknown(self.noun, name, self.names())
        folder, stem = self._folder(), name.replace("-", "_") if self.dashed else name
        plain = folder / f"{stem}.py"
        # ``import_.py`` is the member "import": a keyword can't name a module
        return plain if plain.exists() else folder / f"{stem}_.py"


def _public(stem: str) -> bool:
    return not stem.startswith("_") and stem not in ("base", "cli")


@cache
def _first_doc_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.split("\n", 1)[0].strip()
