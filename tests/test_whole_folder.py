"""A folder that is replaced whole: whatever happens, the old one or the new one is there."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from compress.core import whole
from compress.core.errors import CompressError
from compress.core.whole import written_whole_folder


def write(folder, text):
    with written_whole_folder(folder) as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "file").write_text(text)


def read(folder):
    return (folder / "deep" / "file").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_made_and_replaced_with_nothing_beside_it(tmp_path):
    place = tmp_path / "not" / "there" / "yet"
    write(place, "old")
    (place / "more").touch()
    write(place, "new")
    assert read(place) == "new" and names(place) == ["deep"] and names(place.parent) == ["yet"]
    umask = os.umask(0)
    os.umask(umask)
    assert place.stat().st_mode & 0o777 == 0o777 & ~umask  # a page is for others to read


def test_nothing_is_there_before_it_is_whole(tmp_path):
    with written_whole_folder(tmp_path / "page") as draft:
        (draft / "half").touch()
        assert not (tmp_path / "page").exists()
    assert names(tmp_path / "page") == ["half"]


def test_what_fails_leaves_the_one_before(tmp_path):
    write(tmp_path / "page", "old")
    with pytest.raises(ZeroDivisionError), written_whole_folder(tmp_path / "page") as draft:
        (draft / "half").touch()
        raise ZeroDivisionError
    assert read(tmp_path / "page") == "old" and names(tmp_path) == ["page"]


def test_a_full_disk_is_one_line_and_leaves_the_one_before(tmp_path, monkeypatch):
    write(tmp_path / "page", "old")

    def fail(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole, "flush", fail)
    with pytest.raises(CompressError, match="No space left"):
        write(tmp_path / "page", "new")
    assert read(tmp_path / "page") == "old" and names(tmp_path) == ["page"]


def test_a_new_one_that_can_not_be_renamed_brings_the_old_one_back(tmp_path, monkeypatch):
    write(tmp_path / "page", "old")
    rename = Path.rename

    def fail(path, target):
        if target == tmp_path / "page" and not path.name.endswith(".before"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CompressError, match="busy"):
        write(tmp_path / "page", "new")
    assert read(tmp_path / "page") == "old" and names(tmp_path) == ["page"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_at_any_rename_the_old_or_the_new_one_is_kept(tmp_path, renames):
    """Kill the process before its first, second and third rename-or-removal, then write again and fail."""
    write(tmp_path / "page", "old")
    script = textwrap.dedent(f"""
        import os, shutil, signal
        from pathlib import Path
        from compress.core.whole import written_whole_folder
        steps = 0
        def dying(act):
            def step(*arguments, **named):
                global steps
                if steps == {renames}:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1
                return act(*arguments, **named)
            return step
        with written_whole_folder(Path({str(tmp_path / "page")!r})) as draft:
            (draft / "deep").mkdir()
            (draft / "deep" / "file").write_text("new")
            Path.rename, shutil.rmtree = dying(Path.rename), dying(shutil.rmtree)
    """)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    with pytest.raises(ZeroDivisionError), written_whole_folder(tmp_path / "page"):
        raise ZeroDivisionError
    assert read(tmp_path / "page") == ("new" if renames == 2 else "old")
    assert not (tmp_path / ".page.before").exists()


def test_of_a_link_what_it_leads_to_is_replaced(tmp_path):
    write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "real") == "new"
    assert names(tmp_path) == ["link", "real"]
