"""The command lines as a user types them, in one process for speed; a tiny network stands for the large ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress import cli
from compress.core.launch import launch
from compress.core.store import Store

TINY = ["--size", "32", "--batch", "4", "--workers", "0", "--precision", "32"]


def run(*arguments):
    """Exit code of a `compress` command."""
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small labelled data set on disk: discs on noise."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    for split, count in (("train", 8), ("val", 2), ("test", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            y, x = rng.integers(16, 32, 2)
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < 100)[..., None]
            photo = np.where(mask, [200, 60, 40], rng.integers(0, 160, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(photo).save(root / split / "images" / f"{number}.jpg", quality=95)
            Image.fromarray((mask[..., 0] * 255).astype(np.uint8)).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory, folder):
    """A store with one trained network, one student of it and its int8 file."""
    root = tmp_path_factory.mktemp("store")
    common = ["--store", root, "--data", folder]
    assert run("train", "--teacher", "u2netp", "--steps", 3, *TINY, *common) == 0
    assert run("distill", "--teacher", "u2netp", "--student", "u2netp", "--T", 2, "--steps", 2, *TINY, *common) == 0
    assert run("quantize", "--model", "u2netp", "--dtype", "int8", "--calibration", 4, "--force", *common) == 0
    return root


def by_name(root, name):
    return next(a for a in Store(Path(root)).artifacts() if a.name == name)


def test_help_is_quick_and_imports_no_framework():
    script = (
        "import sys\nsys.argv = ['compress', '--help']\nfrom compress.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorflow', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "distill" in done.stdout


@pytest.mark.parametrize("method", cli.METHODS.names())
def test_every_method_has_help_without_a_framework(method):
    script = (
        f"import sys\nsys.argv = ['compress', {method.replace('_', '-')!r}, '--help']\nfrom compress.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'onnxruntime', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--store" in done.stdout
    assert all(line.strip() for line in [cli.METHODS.help(method)])


@pytest.mark.parametrize("room", list(cli.ROOMS))
def test_rooms_are_listed(capsys, room):
    assert run("list", room, "--json") == 0
    members = json.loads(capsys.readouterr().out)
    assert members
    assert all(entry["help"].endswith((".", ")")) for entry in members)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("trian --teacher u2netp", 2, "did you mean 'train'"),
        ("train --teacher u2net_bgi", 2, "did you mean 'u2net_big'"),
        ("train --teacher u2netp --stepss 3", 2, "--steps"),
        ("train --teacher u2netp --steps 0", 2, "--steps is 0"),
        ("train --teacher u2netp --steps 3 --epochs 1", 2, "exclude each other"),
        ("train --teacher u2netp --data nowhere", 2, "nowhere"),
        ("train --teacher u2netp --batch 5 --devices 2", 2, "can't be split"),
        ("train", 2, "--teacher"),
        ("distill --teacher u2net_big --T 2", 4, "compress train --teacher u2net_big"),
        ("distill --teacher u2net_big --T 0", 2, "--T is 0"),
        ("quantize --dtype int9", 2, "int8"),
        ("quantize --dtype int8", 4, "no float32 artifact"),
        ("evaluate --model nothing", 4, "no artifact 'nothing'"),
        ("evaluate --model nothing.onnx", 4, "no file nothing.onnx"),
        ("show nothing", 4, "no artifact 'nothing'"),
        ("apply nothing.jpg --model x", 2, "no photo nothing.jpg"),
        ("import nothing.pth", 2, "--teacher"),
        ("import nothing.pth --teacher u2netp", 4, "no file nothing.pth"),
        ("train --teacher u2netp --config nowhere.toml", 2, "no such file"),
    ],
)
def test_mistakes_are_one_line_with_the_right_exit_code(tmp_path, monkeypatch, capsys, line, code, words):
    monkeypatch.chdir(tmp_path)
    assert run(*line.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_last_line_of_a_method_is_the_artifact_id(store, folder, capsys):
    assert run("train", "--teacher", "u2netp", "--steps", 3, *TINY, "--store", store, "--data", folder) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == by_name(store, "u2netp").id
    assert "found" in err  # the same options are the same artifact: it is not trained again


def test_again_makes_it_anew_and_another_seed_is_another_stage(store, folder, capsys, tmp_path):
    line = ["--teacher", "u2netp", "--steps", 1, *TINY, "--store", tmp_path, "--data", folder]
    assert run("train", *line) == 0
    assert run("train", *line, "--again") == 0
    assert run("train", *line, "--seed", 1) == 0
    first, second, third = Store(tmp_path).artifacts()
    assert first.key == second.key != third.key
    assert first.files[-1].sha256 == second.files[-1].sha256 != third.files[-1].sha256


def test_lineage_is_recorded(store):
    teacher, student, small = (by_name(store, n) for n in ("u2netp", "u2netp-T2", "u2netp-int8"))
    assert student.teacher == teacher.id
    assert student.options["temperature"] == 2.0
    assert small.parent == teacher.id
    (weights,) = [file for file in teacher.files if file.path == "weights.safetensors"]
    assert small.parent_sha256 == weights.sha256
    assert small.bytes < 0.4 * teacher.bytes


@pytest.mark.parametrize("name", ["u2netp", "u2netp-T2", "u2netp-int8"])
def test_evaluate_prints_the_promised_object(store, folder, capsys, name):
    assert run("evaluate", "--model", name, "--data", folder, "--store", store, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {"loss", "mae", "maxf", "smeasure", "images", "dead_masks"} <= told.keys()
    assert told["images"] == 3
    assert 0 <= told["mae"] <= 1


def test_apply_writes_mask_and_cutout_at_the_photos_size(store, folder, tmp_path, capsys):
    photo = folder / "test" / "images" / "0.jpg"
    assert run("apply", "--model", "u2netp", photo, "--out", tmp_path, "--store", store) == 0
    mask, cutout = Image.open(tmp_path / "0.mask.png"), Image.open(tmp_path / "0.cutout.png")
    assert (mask.mode, mask.size) == ("L", (64, 48))
    assert (cutout.mode, cutout.size) == ("RGBA", (64, 48))
    assert np.array_equal(np.asarray(cutout)[..., 3], np.asarray(mask))


def test_newest_model_is_taken_and_named(store, capsys):
    assert run("evaluate", "--store", store, "--dry-run") == 0
    newest = Store(store).artifacts()[-1]
    assert capsys.readouterr().err.startswith(f"model: {newest.id}")


def test_list_and_show(store, capsys):
    assert run("list", "--store", store) == 0
    assert "u2netp-T2" in capsys.readouterr().out
    assert run("list", "artifacts", "--json", "--store", store) == 0
    assert len(json.loads(capsys.readouterr().out)) >= 3
    assert run("show", by_name(store, "u2netp-T2").id[:6], "--json", "--store", store) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "distill"


def test_dry_run_writes_nothing(folder, tmp_path, capsys):
    line = ["train", "--teacher", "u2netp", *TINY, "--data", folder, "--store", tmp_path / "s", "--dry-run"]
    assert run(*line) == 0
    assert "would train u2netp on 8 pictures" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()


def test_config_file_gives_flags_and_a_flag_wins(folder, tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text(f'teacher = "u2netp"\nsteps = 7\nlr = 0.5\ndata = ["{folder}"]\n')
    assert run("train", "--config", config, "--steps", 5, "--dry-run", "--json", "--store", tmp_path / "s") == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert (options["steps"], options["lr"], options["teacher"]) == (5, 0.5, "u2netp")


@pytest.mark.parametrize(("text", "words"), [("stepss = 3\n", "stepss"), ("steps = \n", "not TOML")])
def test_bad_config_is_a_usage_error(tmp_path, capsys, text, words):
    config = tmp_path / "run.toml"
    config.write_text(text)
    assert run("train", "--teacher", "u2netp", "--config", config, "--store", tmp_path / "s") == 2
    assert words in capsys.readouterr().err


def test_altered_artifact_is_refused(store, folder, tmp_path, capsys):
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    path = copy / by_name(copy, "u2netp").id / "weights.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert run("evaluate", "--model", "u2netp", "--data", folder, "--store", copy) == 4
    assert "altered" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_store_is_one_line(folder, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run("train", "--teacher", "u2netp", "--steps", 1, *TINY, "--data", folder, "--store", tmp_path / "s") == 1
    assert "can't write" in capsys.readouterr().err


def test_a_model_brings_its_data(store, folder, tmp_path, capsys):
    assert run("evaluate", "--model", "u2netp", "--store", store, "--json") == 0
    out, err = capsys.readouterr()
    assert f"data: {folder}, which u2netp was made with" in err
    assert json.loads(out)["images"] == 3
    assert run("evaluate", "--model", "u2netp", "--store", store, "--data", "builtin", "--dry-run") == 0
    assert "64 pictures" in capsys.readouterr().out


def test_apply_keeps_photos_of_one_stem_apart(store, folder, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    photos = [tmp_path / name for name in ("a/x.png", "b/x.png", "b/x.jpg")]
    assert run("apply", "--model", "u2netp", *photos, "--out", tmp_path / "o", "--store", store, "--json") == 0
    assert len(list((tmp_path / "o").iterdir())) == 6


def test_every_page_of_a_stack_is_applied(store, tmp_path):
    pages = [Image.new("L", (40, 30), shade) for shade in (10, 200, 90)]
    pages[0].save(tmp_path / "volume.tif", save_all=True, append_images=pages[1:])
    assert run("apply", "--model", "u2netp", tmp_path / "volume.tif", "--out", tmp_path / "o", "--store", store) == 0
    assert sorted(path.name for path in (tmp_path / "o").glob("*.mask.png")) == [
        f"volume-{page:02d}.mask.png" for page in range(3)
    ]


def test_flags_of_the_student_s_own_reach_its_builder(folder, tmp_path, capsys):
    line = ["--steps", 1, *TINY, "--data", folder, "--store", tmp_path]
    assert run("train", "--teacher", "u2netp", *line, "--width", 4) == 0
    assert run("distill", "--teacher", "u2netp", "--student", "u2net_small", *line, "--width", 8) == 0
    teacher, student = Store(tmp_path).artifacts()
    assert (teacher.network_options, student.network_options) == ({"width": 4}, {"width": 8})
    assert run("distill", "--teacher", "u2netp", "--student", "u2net_small", *line, "--blocks", "rsu") == 2
    assert "--width" in capsys.readouterr().err
