"""`compress quantize` as a user runs it: every dtype, what is chosen and kept, what is rejected and refused."""

import json

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tiny_store import publish, record, season

from compress import cli
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import Store

QUICK = ["--calibration", 3, "--selection", 2, "--size", 32]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Discs on noise, and their masks."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            y, x = rng.integers(12, 28, 2)
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < 80)[..., None]
            photo = np.where(mask, [200, 60, 40], rng.integers(0, 160, (40, 48, 3))).astype(np.uint8)
            Image.fromarray(photo).save(root / split / "images" / f"{number}.png")
            Image.fromarray((mask[..., 0] * 255).astype(np.uint8)).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one network of some weight: rounding it pays."""
    torch.manual_seed(0)
    kept = Store(tmp_path_factory.mktemp("store"))
    net = find_network("u2netp").build(width=32)
    season(net)
    publish(kept, record("net", network_options={"width": 32}), net.eval())
    return kept


def _common(store, masks):
    return ["--model", "net", "--store", store.root, "--data", masks, *QUICK]


def made(store, name):
    return next(a for a in reversed(store.artifacts()) if a.name == name)


def graph_of(store, artifact):
    return onnx.load(store.folder(artifact) / "model.onnx")


@pytest.mark.parametrize(
    ("dtype", "shrink"),
    [
        ("int8w", 3.3),
        *(
            pytest.param(*form, marks=pytest.mark.slow)
            for form in (("int4w", 5.5), ("float16", 1.9), ("bfloat16", 1.9))
        ),
    ],
)
def test_weights_alone_need_no_photos_and_shrink_the_file(store, masks, dtype, shrink):
    assert run("quantize", "--model", "net", "--dtype", dtype, "--store", store.root, "--data", masks, *QUICK) == 0
    artifact = made(store, f"net-{dtype}")
    assert artifact.dtype == dtype
    assert artifact.data == ""
    assert artifact.notes["verdict"]["shrink"] > shrink * 0.8
    assert artifact.notes["quantization"]["images"] == 0


def test_int8_is_judged_beside_its_parent_and_tells_how_it_was_chosen(store, masks):
    assert run("quantize", "--model", "net", "--store", store.root, "--data", masks, *QUICK, "--sensitivity",
               "--force") == 0  # fmt: skip
    artifact = made(store, "net-int8")
    notes = artifact.notes["quantization"]
    assert notes["style"] == "all"
    assert [tried["clip"] for tried in notes["tried"]] == ["minmax", "mse", "percentile"]
    assert notes["tried"][0]["kept"]
    best = min((tried for tried in notes["tried"] if tried["kept"]), key=lambda tried: tried["distance"])
    assert notes["distance"] == best["distance"]
    errors = [layer["error"] for layer in notes["sensitivity"]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == notes["forms"]["int8"]
    assert all("loss_given_back" in layer for layer in notes["sensitivity"][:8])
    verdict = artifact.notes["verdict"]
    assert verdict["speed"]["value"] > 0
    assert verdict["runtime"] == "ort"
    assert artifact.notes["parent_metrics"]["images"] == artifact.metrics["images"] == 3
    assert bool(artifact.notes.get("rejected")) == bool(verdict["rejected"])


def test_a_result_not_worth_having_is_not_kept_unless_forced(tmp_path, masks, capsys):
    kept = Store(tmp_path)
    torch.manual_seed(0)
    publish(kept, record("thin"), find_network("u2netp").build(width=8).eval())
    command = ["quantize", "--model", "thin", "--store", tmp_path, "--data", masks, *QUICK]
    assert run(*command) == 6
    said = capsys.readouterr().err
    assert "x smaller, wanted 3.6x" in said
    assert "--force keeps it" in said
    assert [a.name for a in kept.artifacts()] == ["thin"]
    assert run(*command, "--force") == 0
    assert "wanted 3.6x" in made(kept, "thin-int8").notes["rejected"][0]
    capsys.readouterr()
    assert run("list", "--store", tmp_path) == 0
    assert "REJECTED" in capsys.readouterr().out


def test_the_calibration_is_found_again(store, masks, capsys):
    command = [
        "quantize",
        "--model",
        "net",
        "--store",
        store.root,
        "--data",
        masks,
        *QUICK,
        "--force",
        "--tune",
        "none",
    ]
    assert run(*command) == 0
    capsys.readouterr()
    assert run(*command, "--method", "mse") == 0
    assert "3 photos seen before" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_may_not_rise_keeps_layers_in_float(store, masks):
    # a limit no rounding holds: everything the search has goes back to float, and the command says it failed
    assert run("quantize", "--model", "net", "--store", store.root, "--data", masks, *QUICK, "--tune", "none",
               "--max-loss-increase", "0%", "--force", "--name", "wide") == 0  # fmt: skip
    notes = made(store, "wide").notes["quantization"]
    widened = notes["widened"]
    assert widened["limit"] == 0
    if widened["holds"]:
        assert notes["selection_loss_increase"] <= 0
    else:
        assert len(widened["kept"]) == len(notes["sensitivity"])
    assert all(notes["left"][name].startswith("kept wide") for name in widened["kept"])


def test_mixed_holds_the_bytes_it_was_given(store, masks, capsys):
    whole = made(store, "net")
    most = int(0.2 * store.folder(whole).joinpath("weights.safetensors").stat().st_size)
    common = ["--store", store.root, "--data", masks, *QUICK, "--tune", "none"]
    assert run("quantize", "--model", "net", "--dtype", "mixed", "--max-bytes", most, *common, "--force") == 0
    artifact = made(store, "net-mixed")
    assert artifact.bytes <= most
    forms = artifact.notes["quantization"]["forms"]
    assert forms["int4"] > 0
    assert forms["int8"] > 0
    assert run("quantize", "--model", "net", "--dtype", "mixed", "--max-bytes", "2kB", *common) == 2
    assert "compress prune" in capsys.readouterr().err


def test_excluded_and_included_nodes_are_as_asked(store, masks, capsys):
    assert run("quantize", "--model", "net", "--store", store.root, "--explain", "--dry-run", "--json") == 0
    layers = json.loads(capsys.readouterr().out.splitlines()[0])["layers"]
    head = next(layer["name"] for layer in layers if layer["reason"].startswith("last layer"))
    first = next(layer["name"] for layer in layers if layer["form"] == "int8" and layer["operator"] == "Conv")
    assert all(layer["reason"] for layer in layers)
    assert run("quantize", *_common(store, masks), "--force", "--tune", "none",
               "--exclude", first, "--include", head, "--name", "mine") == 0  # fmt: skip
    left = made(store, "mine").notes["quantization"]["left"]
    assert left[first] == "excluded by name"
    assert head not in left


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--exclude", "nothing"], "no node 'nothing'"),
        (["--max-loss-increase", "much"], "wanted a share like 0.5%"),
        (["--max-bytes", "1MB"], "--dtype mixed"),
        (["--dtype", "mixed", "--max-bytes", "lots"], "wanted a size like 6.4MB"),
        (["--activations", "float16"], "give --dtype int8w"),
        (["--calibration", 0], "--calibration is 0"),
    ],
)
def test_what_can_not_be_is_refused_with_what_would_be_right(store, masks, capsys, flags, said):
    assert run("quantize", "--model", "net", "--store", store.root, "--data", masks, *flags) == 2
    assert said in capsys.readouterr().err


def test_a_network_of_the_users_own_is_built_exported_and_quantized(tmp_path, masks, monkeypatch, capsys):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]\n"
        "    layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 1), nn.Sigmoid()]\n"
        "    return nn.Sequential(*layers)\n\n\ndef text():\n    return 'no network'\n"
    )
    monkeypatch.chdir(tmp_path)
    common = ["--store", tmp_path / "s", "--data", masks, *QUICK, "--force"]
    assert run("quantize", "--model", "mynet:build", *common) == 0
    parent, child = Store(tmp_path / "s").artifacts()
    assert child.parent == parent.id
    assert child.notes["quantization"]["operators"]["Conv"] == 2
    assert run("quantize", "--model", "mynet:text", *common) == 2
    assert "built a str, wanted an nn.Module" in capsys.readouterr().err
    assert run("quantize", "--model", "no_such_package:build", *common) == 2
    assert "can't be built: ModuleNotFoundError" in capsys.readouterr().err
