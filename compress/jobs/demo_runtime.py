"""The part of a demo that is not ours: TF.js' files as its npm packages have them, and everybody's licenses."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress.core.errors import CompressError
from compress.core.web import vendored, web_folder

SCOPE = "@tensorflow"
BUNDLED = ("seedrandom", "long")  # npm packages that lie inside TF.js' files
COMPILED = Path(__file__).parent / "templates" / "wasm_notices.txt"  # what lies inside its .wasm files


def runtime_files() -> dict[str, tuple[str, ...]]:
    """Every npm package of TF.js that a page loads and its files: the page's own list, shared/tfjs-files.js."""
    text = (web_folder() / "shared" / "tfjs-files.js").read_text(encoding="utf-8")
    listed: dict[str, list[str]] = json.loads(text[text.index("({") + 1 : text.rindex("}") + 1])
    return {package: tuple(files) for package, files in listed.items()}


def check_runtime() -> None:
    """Make sure that TF.js is here.

    Raises:
        MissingExtraError: If `npm ci` has not run.
    """
    for package in runtime_files():
        vendored(f"{SCOPE}/{package}")


def copy_runtime(draft: Path) -> None:
    """Copy TF.js into ``draft``/vendor, laid out as in node_modules, and write LICENSES.txt.

    Raises:
        MissingExtraError: If TF.js is not installed.
    """
    notices = [f"image-compress, Apache-2.0\n\n{_own_license()}"]
    for name, files in runtime_files().items():
        package = vendored(f"{SCOPE}/{name}")
        for file in files:
            target = draft / "vendor" / SCOPE / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / file, target)
        notices.append(f"{_title(package)}: vendor/{SCOPE}/{name}. Copyright Google LLC. Its license is the one above.")
    for name in BUNDLED:
        package = vendored(name)
        texts = [path.read_text(encoding="utf-8") for path in sorted(package.glob("LICENSE*"))]
        inside = f"{_title(package)}: inside TF.js' files."
        notices.append("\n\n".join([inside, *(texts or [_readme_license(package)])]))
    notices.append(COMPILED.read_text(encoding="utf-8").strip())
    (draft / "LICENSES.txt").write_text(f"\n\n{'-' * 80}\n\n".join(notices) + "\n", encoding="utf-8")


def _title(package: Path) -> str:
    told: Mapping[str, Any] = json.loads((package / "package.json").read_text(encoding="utf-8"))
    return f"{told['name']} {told['version']}, {told['license']}"


def _readme_license(package: Path) -> str:
    """The license at the end of a package's README, for packages that keep it there."""
    lines = (package / "README.md").read_text(encoding="utf-8").splitlines()
    headings = [number for number, line in enumerate(lines) if line.lstrip("# ").upper().startswith("LICENSE")]
    assert headings, f"{package} has a license of its own or one in its README"
    return "\n".join(lines[headings[-1] :]).strip()


def _own_license() -> str:
    beside = web_folder().parents[1] / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("image-compress") or ():
            if file.name == "LICENSE":
                return file.read_text()
    raise CompressError("image-compress is installed without its LICENSE, which goes with every copy",
                        hint="install it again")  # fmt: skip
