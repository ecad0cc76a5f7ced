"""The `reports` command."""

from __future__ import annotations

from typing import NoReturn

from cyclopts import App

from compress import __version__
from compress.core.launch import launch

app = App(
    name="reports",
    version=__version__,
    help="Turn what was measured into one page: size, loss and speed of every model beside its teacher.",
)
app.command("reports.commands:build", name="build", help="Build the report: HTML, Markdown, CSV and PNG.")
app.register_install_completion_command()


def main() -> NoReturn:
    """Run the command line."""
    launch(app)
