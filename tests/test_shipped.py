"""Networks that come with the package: brought into a store once, whole, and only where nothing else is meant."""

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_store import publish, record, season

from compress.cli import app
from compress.core.errors import ArtifactError
from compress.core.networks import find_network
from compress.core.store import Store
from compress.jobs import shipped
from compress.jobs.models import load_module, pick


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one network, as ours has it."""
    torch.manual_seed(0)
    source = Store(tmp_path / "made")
    net = find_network("u2netp").build(width=4)
    season(net)
    made = publish(source, record("tiny", network_options={"width": 4}), net)
    folder = tmp_path / "package"
    folder.mkdir()
    source.folder(made).rename(folder / "tiny")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr("compress.jobs.models.FIRST", "tiny")
    return folder


def test_an_empty_store_gets_it_once(package, tmp_path):
    store = Store(tmp_path / "artifacts")
    first = pick(store, "", shipped=True)
    assert first.name == "tiny"
    assert [artifact.id for artifact in store.artifacts()] == [first.id]
    assert pick(store, "tiny").id == first.id == shipped.bring(store, "tiny").id
    assert len(store.artifacts()) == 1
    assert load_module(store, first)(torch.zeros(1, 3, 32, 32))[0].shape == (1, 1, 32, 32)


def test_what_a_user_made_comes_first(package, tmp_path):
    store = Store(tmp_path / "artifacts")
    mine = publish(store, record("mine", network_options={"width": 4}), find_network("u2netp").build(width=4))
    assert pick(store, "", shipped=True).id == mine.id
    assert pick(store, "tiny").name == "tiny"


def test_other_commands_do_not_take_it_for_the_newest(package, tmp_path):
    with pytest.raises(ArtifactError, match="no artifact"):
        pick(Store(tmp_path / "artifacts"), "")


def test_a_damaged_package_leaves_no_artifact(package, tmp_path):
    weights = package / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    store = Store(tmp_path / "artifacts")
    with pytest.raises(ArtifactError, match="altered"):
        shipped.bring(store, "tiny")
    assert store.artifacts() == []


def test_apply_works_out_of_the_box(package, tmp_path):
    photo = tmp_path / "photo.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(photo)
    words = ["apply", photo, "--store", tmp_path / "artifacts", "--out", tmp_path / "out", "--quiet"]
    app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")
    assert PIL.Image.open(tmp_path / "out" / "photo.mask.png").size == (40, 48)
