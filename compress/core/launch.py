"""How every command line starts and ends: config file, one line for a mistake, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from compress.core.console import set_up
from compress.core.errors import EXIT_INTERRUPTED, CompressError, UsageError, did_you_mean

if TYPE_CHECKING:
    from cyclopts import App


def launch(
    app: App,
    argv: Sequence[str] | None = None,
    *,
    more_help: Callable[[Sequence[str]], None] | None = None,
    lenient: Sequence[str] = (),
) -> NoReturn:
    """Run a command line to its end and exit with the code of what happened.

    ``more_help`` prints what --help does not know; ``lenient`` commands check the keys of a config file themselves.

    0 ok, 1 other, 2 usage, 3 missing extra, 4 artifact, 5 parity, 130 interrupted. An error is one line on stderr;
    the traceback of a mistake of ours is shown whole, and that of the user's only with COMPRESS_TRACEBACK=1.
    """
    # Waiting OpenMP threads must sleep, not spin: beside any other busy process on 2 cores, a training step of
    # U²-Net Small took 0.35 s so and up to 14 s spinning. Read when torch loads its OpenMP runtime.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_up(quiet="--quiet" in arguments)
    try:
        _check_command(app, arguments)
        _read_config(app, arguments, lenient)
        _dispatch(app, arguments)
        if more_help is not None and {"--help", "-h"} & set(arguments):
            more_help(arguments)
    except CompressError as error:
        if os.environ.get("COMPRESS_TRACEBACK"):
            raise
        _exit(error, error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our stdout went away: not a failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(0)
    _leave(0)


def _dispatch(app: App, arguments: list[str]) -> None:
    from cyclopts import CycloptsError

    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UsageError(text, hint=f"see `{' '.join([app.name[0], *_command(app, arguments)])} --help`") from error


def _command(app: App, arguments: Sequence[str]) -> list[str]:
    return [word for word in arguments[:1] if word in _commands(app)]


def _commands(app: App) -> list[str]:
    return [name for name in app if not name.startswith("-")]


def _check_command(app: App, arguments: Sequence[str]) -> None:
    """Name a mistyped command ourselves: the library would import every command to do so."""
    word = arguments[0] if arguments else ""
    if word and not word.startswith("-") and word not in _commands(app):
        known = _commands(app)
        raise UsageError(f"unknown command '{word}'{did_you_mean(word, known)}", hint=f"known: {', '.join(known)}")


def _read_config(app: App, arguments: list[str], lenient: Sequence[str]) -> None:
    app.config = ()
    path = value_of("--config", arguments)
    if path is None:
        return
    import tomllib

    from cyclopts.config import Toml

    if not Path(path).is_file():
        raise UsageError(f"--config {path}: no such file", hint="give a TOML file with the same keys as the flags")
    try:
        tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}", hint="write lines such as: steps = 500") from error
    own = _command(app, arguments)[:1] and arguments[0] in lenient
    app.config = (Toml(path, must_exist=True, use_commands_as_keys=False, allow_unknown=bool(own)),)


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what the command line gives for a flag, ``--flag value`` or ``--flag=value``; None where it does not."""
    for position, word in enumerate(arguments):
        if word == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def _exit(error: CompressError, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
