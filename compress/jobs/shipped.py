"""Networks that come with the package, trained by this project: brought into a store like any import."""

from __future__ import annotations

import shutil
from pathlib import Path

from compress.core.console import log
from compress.core.errors import ArtifactError
from compress.core.store import MANIFEST, Store, read_manifest, sha256_of
from compress.core.types import Artifact

FOLDER = Path(__file__).parents[1] / "shipped"  # a folder for each network: manifest, weights, model card
FIRST = "remover-int8"  # what runs where a store has nothing yet


def shipped_names() -> tuple[str, ...]:
    """Names of the networks that come with the package."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{MANIFEST}")))


def bring(store: Store, name: str) -> Artifact:
    """Copy a shipped network into the store, whole or not at all; the same one is found again.

    Raises:
        ArtifactError: If a file is not what the manifest says.
    """
    source = FOLDER / name
    artifact = read_manifest(source / MANIFEST)
    if not store.folder(artifact).is_dir():
        with store.draft() as draft:
            for file in artifact.files:
                (draft / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file.path, draft / file.path)
                if sha256_of(draft / file.path) != file.sha256:
                    raise ArtifactError(f"{source / file.path} was altered: it is not what came with the package",
                                        hint="install the package again")  # fmt: skip
            shutil.copyfile(source / MANIFEST, draft / MANIFEST)
            store.place(draft, artifact)
        log.info("%s comes with the package; its card: %s", name, source / "card.md")
    store.verify(artifact)
    return artifact
