"""The whole error tree, its exit codes, and did-you-mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class CompressError(Exception):
    """A mistake the user can mend: shown as one line on stderr, never as a traceback.

    Args:
        what: What went wrong, with what was found and what was wanted.
        hint: The next thing to do, a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class UsageError(CompressError):
    """A flag, name or value that can't be."""

    exit_code = 2


class DataError(UsageError):
    """A data folder or image that can't be used."""


class NoTruthError(DataError):
    """The data has no labels where some were asked for: it can be trained on, not scored."""


class MissingExtraError(CompressError):
    """An optional package or tool is not installed."""

    exit_code = 3


class ArtifactError(CompressError):
    """An artifact that is absent, altered or of the wrong kind."""

    exit_code = 4


class ParityError(CompressError):
    """Two formats of one network disagree on the same inputs."""

    exit_code = 5


class RejectedError(CompressError):
    """A result that is not worth having: slower, hardly smaller, or worse than the limit."""

    exit_code = 6


class DivergedError(CompressError):
    """Training ran into a loss that is not finite."""


EXIT_INTERRUPTED = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest known name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def unknown(noun: str, name: str, known: Sequence[str]) -> UsageError:
    """Build the error for a name that is not in a list of known ones."""
    return UsageError(
        f"unknown {noun} '{name}'{did_you_mean(name, known)}",
        hint=f"known: {', '.join(sorted(known)) or 'none'}",
    )
