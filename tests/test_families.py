"""Every family through the same commands: train, evaluate, apply, distil, quantize, benchmark, report, ablate."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.cli import app as benchmarks
from compress import cli
from compress.core.launch import launch
from compress.core.networks import TEACHERS, find_network
from compress.core.store import Store
from reports.cli import app as reports

TINY = ["--size", 32, "--steps", 2, "--batch", 2, "--workers", 0, "--precision", 32, "--width", 4]
FAMILIES = ["u2net_big", "pix2pixhd_retouch", "voc_unet", "membrane_gan", "colorizer"]


def run(*arguments, app=cli.app):
    with pytest.raises(SystemExit) as stopped:
        launch(app, [str(a) for a in arguments])
    return stopped.value.code


def test_there_is_a_family_for_every_task():
    assert len({find_network(name).task for name in FAMILIES}) == len(FAMILIES)
    assert {find_network(name).task for name in TEACHERS.names()} == {find_network(name).task for name in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("teacher", FAMILIES)
def test_the_whole_story(tmp_path, capsys, teacher):
    store, network = tmp_path / "s", find_network(teacher)
    photo = np.random.default_rng(0).integers(0, 256, (67, 101, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    assert run("train", "--teacher", teacher, *TINY, "--store", store) == 0
    assert run("distill", "--teacher", teacher, "--T", 2, *TINY, "--store", store) == 0
    assert run("quantize", "--model", teacher, "--dtype", "int8", "--calibration", 4, "--force", "--store", store) == 0
    artifacts = Store(store).artifacts()
    assert [a.method for a in artifacts] == ["train", "distill", "quantize"]
    assert artifacts[1].network == network.student
    for artifact in artifacts:
        out = tmp_path / "out" / artifact.id
        assert run("apply", "--model", artifact.id, tmp_path / "photo.png", "--out", out, "--store", store) == 0
        pictures = list(out.iterdir())
        assert pictures
        assert {Image.open(path).size for path in pictures} == {(101, 67)}
    capsys.readouterr()
    assert run("evaluate", "--model", teacher, "--store", store, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["baseline"]["metrics"]["loss"] > 0
    assert len(told["baseline"]["gain"]) == 3
    assert run("ablate", "--model", teacher, "--limit", 4, "--store", store) == 0
    bench = ["run", "--target", "cpu", "--target", "torch", "--repeats", 2, "--limit", 2, "--store", store]
    assert run(*bench, app=benchmarks) == 0
    assert run("build", "--store", store, app=reports) == 0
    page = (store / "report" / "index.html").read_text(encoding="utf-8")
    assert all(artifact.name in page.replace("<wbr>", "") for artifact in artifacts)
    assert "needs no network" in page


@pytest.mark.parametrize("teacher", [name for name in TEACHERS.names() if name not in FAMILIES])
def test_every_other_teacher_trains(tmp_path, teacher):
    more = ["--levels", 5] if teacher == "pix2pix" else []
    assert run("train", "--teacher", teacher, *TINY, *more, "--store", tmp_path) == 0
    (artifact,) = Store(tmp_path).artifacts()
    assert np.isfinite(artifact.metrics["loss"])
