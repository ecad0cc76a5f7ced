"""The `benchmarks` command: run, and list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn

from cyclopts import App, Parameter

from benchmarks.targets import TARGETS
from compress import __version__
from compress.core.launch import launch
from compress.core.options import Common

app = App(
    name="benchmarks",
    version=__version__,
    help="Measure what every model costs on every target.",
    suppress_keyboard_interrupt=False,  # the launcher says what an interrupted run kept
)
app.command("benchmarks.commands:run", name="run", help="Measure models in turns and keep the rows in the store.")
app.register_install_completion_command()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listing(Common):
    """Flags of `benchmarks list`."""


@app.command(name="list", help="List the targets, and what each lacks on this machine.")
def list_(*, options: Listing = Listing()) -> None:
    """List the targets, and what each lacks on this machine."""
    targets = [
        {"name": name, "help": TARGETS.help(name), "missing": TARGETS.get(name).available()} for name in TARGETS.names()
    ]
    if options.json:
        print(json.dumps(targets))
        return
    for target in targets:
        missing = f"  (not available: {target['missing']})" if target["missing"] else ""
        print(f"{target['name']:<10} {target['help']}{missing}")


def main() -> NoReturn:
    """Run the command line."""
    launch(app)
