"""The artifact store: one folder an artifact, written whole or not at all, found again by id, name or key.

Layout under the store's root::

    <id>/manifest.json  <id>/weights.safetensors | model.onnx | ...
    rows.jsonl                    measured rows, appended
    runs/<key>/                   checkpoints of unfinished stages
    pictures/<data>/<id>/*.png    predictions on sample photos, for reports
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core.errors import ArtifactError, did_you_mean
from compress.core.types import SCHEMA, Artifact, File, Row, from_json, to_json
from compress.core.whole import flush, umask, writing

MANIFEST = "manifest.json"
HISTORY = "history.json"
_ID_LENGTH = 12
_DRAFT = ".draft-"


def sha256_of(path: Path) -> str:
    """Hash a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hash plain JSON types, independent of key order: 16 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """All artifacts under one folder.

    Args:
        root: The folder; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, artifact: Artifact) -> Path:
        """Where the artifact's files lie."""
        return self.root / artifact.id

    def runs(self, key: str) -> Path:
        """Where an unfinished stage keeps its checkpoints."""
        return self.root / "runs" / key

    def artifacts(self) -> list[Artifact]:
        """Every artifact, oldest first; unreadable manifests are an error, not a gap."""
        manifests = self.root.glob(f"[!.]*/{MANIFEST}") if self.root.is_dir() else ()
        return sorted((read_manifest(path) for path in manifests), key=lambda a: (a.created, a.id))

    def find(self, key: str) -> Artifact | None:
        """Return the newest artifact of that stage key whose files are whole, if any."""
        for artifact in reversed(self.artifacts()):
            if artifact.key == key:
                self.verify(artifact)
                return artifact
        return None

    def get(self, reference: str) -> Artifact:
        """Return the artifact of an id, an id prefix, or the newest one of a name.

        Raises:
            ArtifactError: If nothing or more than one thing fits, or its files were altered.
        """
        artifacts = self.artifacts()
        named = [a for a in artifacts if a.name == reference]
        prefixed = [a for a in artifacts if len(reference) >= 4 and a.id.startswith(reference)]
        if not named and len(prefixed) > 1:
            raise ArtifactError(
                f"'{reference}' fits {len(prefixed)} artifacts: {', '.join(a.id for a in prefixed)}",
                hint="give more of the id",
            )
        if not (named or prefixed):
            known = {a.name for a in artifacts} | {a.id for a in artifacts}
            raise ArtifactError(
                f"no artifact '{reference}' in {self.root} ({len(artifacts)} there){did_you_mean(reference, known)}",
                hint="see `compress list`",
            )
        found = (named or prefixed)[-1]
        self.verify(found)
        return found

    def newest(self, wanted: str, **fields: str | tuple[str, ...]) -> Artifact:
        """Return the newest artifact whose fields equal those given (or are among them).

        Raises:
            ArtifactError: If there is none; ``wanted`` says what it should have been.
        """
        for artifact in reversed(self.artifacts()):
            if all(_fits(getattr(artifact, name), value) for name, value in fields.items()):
                self.verify(artifact)
                return artifact
        raise ArtifactError(f"no {wanted} in {self.root}", hint="see `compress list`, or name one with --model")

    def verify(self, artifact: Artifact) -> None:
        """Check every file's presence and sha256.

        Raises:
            ArtifactError: Naming the first file that is absent or altered.
        """
        for file in artifact.files:
            path = self.folder(artifact) / file.path
            if not path.is_file():
                raise ArtifactError(f"artifact {artifact.id} lacks its file {path}", hint="make it again")
            if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
                raise ArtifactError(
                    f"artifact {artifact.id} was altered: {path} does not match the sha256 in its manifest",
                    hint=f"remove {self.folder(artifact)} and make it again",
                )

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield a temporary folder for an artifact's files; it is gone afterwards unless ``publish`` took it."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            folder = Path(tempfile.mkdtemp(dir=self.root, prefix=f"{_DRAFT}{os.getpid()}-"))
        try:
            with writing(self.root):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove drafts whose process was killed."""
        for folder in self.root.glob(f"{_DRAFT}*"):
            if not _alive(int(folder.name.removeprefix(_DRAFT).partition("-")[0])):
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, draft: Path, artifact: Artifact) -> Artifact:
        """Complete the manifest from the draft's files, rename the folder into place and return the artifact."""
        whole = with_files(artifact, draft)
        whole = replace(whole, id=_id(whole))
        (draft / MANIFEST).write_text(json.dumps(to_json(whole), indent=1), encoding="utf-8")
        self.place(draft, whole)
        return whole

    def place(self, draft: Path, whole: Artifact) -> None:
        """Rename a draft that holds everything, its manifest too, to where the artifact belongs."""
        for path in draft.rglob("*"):
            flush(path)
        draft.chmod(0o777 & ~umask())
        draft.rename(self.folder(whole))
        flush(self.root)

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Append measured rows."""
        lines = "".join(json.dumps(to_json(row)) + "\n" for row in rows)
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / "rows.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())

    def rows(self) -> list[Row]:
        """Every measured row, oldest first; a line cut short by a crash is skipped."""
        path = self.root / "rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [from_json(Row, data) for data in map(_parse, lines) if data is not None]

    def pictures(self, data: str, artifact: str) -> Path:
        """Where predictions on sample photos of one data set lie."""
        return self.root / "pictures" / data / artifact


def with_files(artifact: Artifact, folder: Path) -> Artifact:
    """Return the record with the files that lie in ``folder``."""
    files = tuple(
        File(str(path.relative_to(folder)), sha256_of(path), path.stat().st_size, _ships(path.relative_to(folder)))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return replace(artifact, files=files)


def _ships(path: Path) -> bool:
    """Whether a file of an artifact is part of the network, rather than a record of its making."""
    return path.name != HISTORY and path.suffix != ".png"


def stage_key(method: str, options: Mapping[str, Any], *, lineage: Iterable[str], data: str) -> str:
    """Name a stage by what decides its result: method, options, what it was made from, and its data."""
    return digest({"method": method, "options": dict(options), "lineage": list(lineage), "data": data})


def _id(artifact: Artifact) -> str:
    record = to_json(artifact)
    record.pop("id")
    return digest(record)[:_ID_LENGTH]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fits(value: str, wanted: str | tuple[str, ...]) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def read_manifest(path: Path) -> Artifact:
    """Read a manifest file.

    Raises:
        ArtifactError: If it is malformed or of a newer schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] > SCHEMA:
            raise ArtifactError(
                f"{path} has schema {data['schema']}, this version reads up to {SCHEMA}",
                hint="update image-compress",
            )
        return from_json(Artifact, data)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is no manifest: {error}", hint=f"remove {path.parent}") from error


def _parse(line: str) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return data
