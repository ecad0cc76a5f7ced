"""Files and folders that are written whole or not at all, and a disk's troubles told in one line."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core.errors import CompressError, UsageError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EBUSY)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a part."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it into place."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        # mkstemp makes a file for its owner only; a report is read by others too
        os.fchmod(handle, 0o666 & ~umask())
        os.close(handle)
    temporary = Path(name)
    try:
        with writing(path.parent):
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success flush it to disk and put it in the place of what was there.

    What was there is first renamed aside and removed last, so that a crash at any moment leaves the old folder or the
    new one: in its place, or, for the moment between two renames, aside, from where the next call brings it back.
    """
    folder = folder.resolve()  # of a link, what it leads to is replaced
    aside = folder.with_name(f".{folder.name}.before")
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with writing(folder.parent):
            yield draft
            for path in draft.rglob("*"):
                flush(path)
            draft.chmod(0o777 & ~umask())
            _take_place(draft, folder, aside)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _take_place(draft: Path, folder: Path, aside: Path) -> None:
    if folder.exists():
        folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one clear line."""
    try:
        yield
    except Exception as error:
        disk = _disk_error(error)
        if disk is None:
            raise
        raise CompressError(
            f"can't write under {folder}: {os.strerror(disk)}",
            hint="nothing was kept half-written; free the disk or give another folder with --store DIR",
        ) from error


def _disk_error(error: BaseException | None) -> int | None:
    """Return the number of the disk's error behind ``error``, if one is: torch buries it under one of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def check_ours(folder: Path, mark: str) -> None:
    """Refuse to write a page over anything but an earlier one of the same kind.

    Args:
        folder: Where the page shall lie.
        mark: What the head of an earlier one's index.html holds.

    Raises:
        UsageError: If the folder holds something else.
    """
    if not folder.exists():
        return
    index = folder / "index.html"
    ours = index.is_file() and mark in index.read_text(encoding="utf-8", errors="replace")[:2000]
    if not folder.is_dir() or (any(folder.iterdir()) and not ours):
        raise UsageError(f"'{folder}' holds something else", hint="give another folder with --out")


def flush(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """Return the bits that this process takes from new files' modes."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
