import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from compress.core.errors import ArtifactError, CompressError
from compress.core.machine import this_machine
from compress.core.store import Store, stage_key
from compress.core.types import Artifact, ImageSpec, Row, from_json, to_json


def make(name="net", key="k", created="2026-01-01T00:00:00.000+00:00", **fields):
    values = dict(
        id="", name=name, kind="teacher", task="saliency", network="u2net_big", network_options={},
        format="safetensors", dtype="float32", method="train", options={"steps": 3}, parent="", parent_sha256="",
        teacher="", key=key, input=ImageSpec(mean=(0.1, 0.2, 0.3)), output=ImageSpec(channels=1, color="mask"),
        files=(), parameters=10, macs=20, data="d", metrics={"loss": 0.5}, machine=this_machine(), seed=0,
        versions={}, commit="", created=created, seconds=1.0,
    )  # fmt: skip
    return Artifact(**(values | fields))


def put(store, artifact, weights=b"weights"):
    with store.draft() as draft:
        (draft / "weights.safetensors").write_bytes(weights)
        return store.publish(draft, artifact)


def test_artifact_comes_back_as_it_was_published(tmp_path):
    store = Store(tmp_path / "store")
    published = put(store, make())
    assert store.get(published.id) == published
    assert store.artifacts() == [published]
    assert published.bytes == len(b"weights")
    assert from_json(Artifact, json.loads(json.dumps(to_json(published)))) == published


def test_history_does_not_count_as_size(tmp_path):
    store = Store(tmp_path)
    with store.draft() as draft:
        (draft / "weights.safetensors").write_bytes(b"1234")
        (draft / "history.json").write_text("[]" * 100)
        assert store.publish(draft, make()).bytes == 4


def test_get_by_prefix_and_newest_of_a_name(tmp_path):
    store = Store(tmp_path)
    old = put(store, make(key="a"))
    new = put(store, make(key="b", created="2026-02-01T00:00:00.000+00:00"))
    assert store.get(old.id[:6]) == old
    assert store.get("net") == new
    assert store.newest("anything", dtype="float32") == new


def test_unknown_name_says_what_is_near(tmp_path):
    store = Store(tmp_path)
    put(store, make(name="u2net_big"))
    with pytest.raises(ArtifactError, match="did you mean 'u2net_big'"):
        store.get("u2net_bgi")


@pytest.mark.parametrize("damage", [b"Weights", b"weights and more", b""])
def test_altered_file_is_refused(tmp_path, damage):
    store = Store(tmp_path)
    artifact = put(store, make())
    (store.folder(artifact) / "weights.safetensors").write_bytes(damage)
    with pytest.raises(ArtifactError, match="altered") as caught:
        store.get(artifact.id)
    assert caught.value.exit_code == 4


def test_missing_file_and_broken_manifest_are_refused(tmp_path):
    store = Store(tmp_path)
    artifact = put(store, make())
    (store.folder(artifact) / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match="lacks its file"):
        store.get(artifact.id)
    (store.folder(artifact) / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is no manifest"):
        store.artifacts()


def test_newer_schema_is_refused(tmp_path):
    store = Store(tmp_path)
    put(store, make(schema=99))
    with pytest.raises(ArtifactError, match="schema 99"):
        store.artifacts()


def test_failed_draft_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.draft() as draft:
        (draft / "weights.safetensors").write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_draft_of_a_killed_process_is_invisible_and_swept(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from compress.core.store import Store
        with Store(Path({str(tmp_path)!r})).draft() as draft:
            (draft / "manifest.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert store.artifacts() == []
    artifact = put(store, make())
    assert [path.name for path in tmp_path.iterdir()] == [artifact.id]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_full_or_read_only_disk_is_one_line_and_keeps_nothing(tmp_path, monkeypatch, code):
    store = Store(tmp_path)

    def fail(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("compress.core.store.flush", fail)
    with pytest.raises(CompressError, match="nothing was kept half-written"):
        put(store, make())
    assert list(tmp_path.iterdir()) == []


def test_rows_round_trip_and_a_line_cut_short_is_skipped(tmp_path):
    store = Store(tmp_path)
    row = Row("a", "cpu", "latency", 0.5, "s", "lower", "run", this_machine(), (0.4, 0.5), {"batch": 1})
    store.add_rows([row, replace(row, value=0.6)])
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write('{"artifact": "b", "tar')
    assert store.rows() == [row, replace(row, value=0.6)]


def test_stage_key_depends_on_every_part():
    base = dict(method="train", options={"steps": 1, "lr": 0.1}, lineage=["x"], data="d")
    keys = {
        stage_key(part["method"], part["options"], lineage=part["lineage"], data=part["data"])
        for part in (
            base,
            base | {"method": "qat"},
            base | {"options": {"steps": 2, "lr": 0.1}},
            base | {"lineage": ["y"]},
            base | {"data": "e"},
        )
    }
    assert len(keys) == 5
    assert stage_key("train", {"lr": 0.1, "steps": 1}, lineage=["x"], data="d") in keys


def test_find_returns_the_artifact_of_a_key(tmp_path):
    store = Store(tmp_path)
    artifact = put(store, make(key="this"))
    assert store.find("this") == artifact
    assert store.find("that") is None
