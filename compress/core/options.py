"""The flags every command shares; a command's own dataclass adds its fields to them.

Flags, config file, validation and manifest all come from these dataclasses.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.core.errors import UsageError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Where things are kept and how the command speaks; nothing here changes a result."""

    store: Path = Path("artifacts")
    """Folder of artifacts."""
    json: bool = False
    """Print the result as one JSON object on stdout."""
    quiet: bool = False
    """No progress and no log on stderr; warnings and errors remain."""
    config: Path | None = None
    """TOML file with the same keys as the flags; a flag wins over the file."""
    dry_run: bool = False
    """Say what would be done, and stop."""


@dataclass(frozen=True, kw_only=True)
class Making(Common):
    """What every command that makes an artifact takes; nothing here changes the network it makes, but for its name."""

    name: str = ""
    """Name of the artifact; a telling one is made when none is given."""
    again: bool = False
    """Make it again although the store has the artifact of just these options."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Which pictures."""

    data: tuple[str, ...] = ()
    """Folder of pictures, repeatable, or "builtin"; by default what the model at hand was made with, else builtin."""
    seed: int = 0
    """Seed of everything drawn at random."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    devices: int = 1
    """Processes (CPU) or cards to train on, gradients averaged."""
    resume: bool = False
    """Continue an interrupted run of just these options."""
    workers: int = 1
    """Processes that load pictures."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""


# flags that say where, how loud or how often, but do not decide the result
_IDLE = frozenset(f.name for kind in (Common, Compute) for f in dataclasses.fields(kind)) | {
    "again",
    "validate_every",
    "explain",
    "force",
    "cache",
    "cache_bytes",
}


def deciding(options: Any) -> dict[str, Any]:
    """Return the options that decide a result, as plain JSON types: what the manifest and the stage key hold."""
    values = dataclasses.asdict(options)
    return {key: _plain(value) for key, value in values.items() if key not in _IDLE}


def positive(**values: float | None) -> None:
    """Check that each value, where given, is above zero.

    Raises:
        UsageError: Naming the flag.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} is {value}, it must be above 0", hint="see --help")


def exclusive(**values: object) -> None:
    """Check that at most one of the values is given.

    Raises:
        UsageError: Naming the flags that clash.
    """
    given = [f"--{name}" for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
