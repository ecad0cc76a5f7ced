"""`compress demo` with real exports: pictures from its page in Chromium are those of `compress apply`."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import PIL.Image
import pytest
import tiny_store
import torch
import web_fixtures
from browsers import needs_chromium
from demo_site import job, nearly, node_tests, serve
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress import cli
from compress.core.errors import ParityError
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.web import web_folder
from compress.tasks import TASKS

needs_packages = pytest.mark.skipif(not (web_folder() / "node_modules").is_dir(), reason="npm ci has not run")
needs_exports = pytest.mark.skipif(importlib.util.find_spec("tensorflowjs") is None, reason="no tensorflowjs")
WIDTH, SIDE = 8, 64
# a small network of each task, and by how much its last convolution is turned up: untrained ones draw but grey
NETWORKS = {
    "saliency": ("u2netp", 10),
    "retouch": ("retouch_small", 1),
    "segmentation": ("unet_slim", 10),
    "membrane": ("membrane_small", 10),
    "color": ("colorizer_small", 100),
}


def run(capsys, *arguments):
    """Run the command line; returns what it printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert stopped.value.code == 0, told.err
    return told.out


def publish(store, task):
    """A network whose norms have seen data, as after training."""
    network, gain = NETWORKS[task]
    torch.manual_seed(0)
    net = find_network(network).build(width=WIDTH).eval()
    tiny_store.season(net)
    with torch.no_grad():
        [part for part in net.modules() if isinstance(part, nn.Conv2d)][-1].weight.mul_(gain)
    kind, size = TASKS.get(task), {"height": SIDE, "width": SIDE}
    record = tiny_store.record(
        task,
        task=task,
        network=network,
        network_options={"width": WIDTH},
        input=replace(kind.input, **size),
        output=replace(kind.output, **size),
        metrics={"loss": 0.5, "mae": 0.25, "images": 3},
    )
    return tiny_store.publish(store, record, net)


def fixed_onnx(path):
    """``pointwise`` of web_fixtures as an ONNX file that runs at 40 x 56 pixels only."""
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["mask"]),
    ]
    weights = [
        numpy_helper.from_array(web_fixtures.WEIGHTS.reshape(1, 3, 1, 1), "weights"),
        numpy_helper.from_array(web_fixtures.BIAS.reshape(1), "bias"),
    ]
    sides = ([1, 3, 40, 56], [1, 1, 40, 56])
    image, mask = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("image", "mask"), sides, strict=True)
    )
    graph = helper.make_graph(nodes, "pointwise", [image], [mask], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def write_photo(path, height, width):
    PIL.Image.fromarray(web_fixtures.photo(height, width)).save(path)
    return path


def compare(capsys, store, page, folder, tries):
    """Bring photos through the page and through `compress apply`; ``tries`` are (artifact, backend, photo)."""
    runs = []
    for number, (artifact, backend, photo) in enumerate(tries):
        out = folder / f"python-{number}"
        run(capsys, "apply", photo, "--model", artifact.id, "--out", out, "--store", store.root, "--quiet")
        kinds = sorted(path.name.split(".")[-2] for path in out.iterdir())
        runs.append({"task": artifact.task, "model": artifact.id, "backend": backend, "photo": str(photo),
                     "kinds": kinds, "name": f"{number}"})  # fmt: skip
    try:
        with serve(page) as address:
            node_tests("models.test.js", patience=900, MODELS=job(address, "chromium", folder, runs=runs))
    finally:
        shutil.rmtree(folder / "profile", ignore_errors=True)
    for told in runs:
        for kind in told["kinds"]:
            [wanted] = (folder / f"python-{told['name']}").glob(f"*.{kind}.png")
            found = folder / f"{told['name']}.{kind}.png"
            assert nearly(PIL.Image.open(found), PIL.Image.open(wanted)), f"{told} {kind}"


@pytest.mark.slow
@needs_chromium
@needs_exports
def test_a_network_in_the_page_draws_what_apply_draws(tmp_path, capsys):
    store, page = Store(tmp_path / "store"), tmp_path / "page"
    artifact = publish(store, "saliency")
    order = ("demo", artifact.id, "--store", store.root, "--out", page, "--weights", "float32", "--json")
    planned = json.loads(run(capsys, *order, "--dry-run"))
    assert planned == {"plan": "demo", "models": [artifact.id], "out": str(page)}
    assert not page.exists() and not (store.root / "cache").exists()
    told = json.loads(run(capsys, *order))
    sizes = [path.stat().st_size for path in page.rglob("*") if path.is_file()]
    assert told == {"out": str(page), "models": [artifact.id], "files": len(sizes), "bytes": sum(sizes)}
    compare(capsys, store, page, tmp_path, [
        (artifact, "wasm", write_photo(tmp_path / "odd.png", 123, 201)),
        (artifact, "wasm", write_photo(tmp_path / "large.png", 768, 1024)),
    ])  # fmt: skip


@needs_chromium
@needs_exports
@pytest.mark.slow
def test_every_task_on_every_backend(tmp_path, capsys):
    store, page = Store(tmp_path / "store"), tmp_path / "page"
    made = {task: publish(store, task) for task in NETWORKS}
    fixed = fixed_onnx(tmp_path / "fixed.onnx")
    out = run(capsys, "demo", *(artifact.id for artifact in made.values()), fixed, "--store", store.root, "--out", page,
              "--weights", "float32", "--quiet")  # fmt: skip
    assert out.strip() == str(page)
    [foreign] = [artifact for artifact in store.artifacts() if artifact.kind == "foreign"]
    card = json.loads((page / "models" / foreign.id / "manifest.json").read_text())
    assert (card["input"]["dynamic"], card["input"]["height"], card["input"]["width"]) == (False, 40, 56)
    odd = write_photo(tmp_path / "odd.png", 123, 201)
    large = write_photo(tmp_path / "large.png", 1024, 683)
    tiny = write_photo(tmp_path / "tiny.png", 40, 60)
    tries = [(artifact, "wasm", photo) for artifact in (*made.values(), foreign) for photo in (odd, large)]
    tries += [(artifact, backend, tiny) for artifact in made.values() for backend in ("webgl", "webgpu")]
    compare(capsys, store, page, tmp_path, tries)
    coloured = np.asarray(PIL.Image.open(tmp_path / f"{tries.index((made['color'], 'wasm', odd))}.color.png"), int)
    assert np.ptp(coloured, axis=-1).mean() > 10  # not the grey it was given


@needs_packages
@pytest.mark.parametrize("weights", ["float16", "float32"])
def test_a_model_that_fewer_bits_would_change_keeps_float32(tmp_path, capsys, monkeypatch, weights):
    store, page = Store(tmp_path / "store"), tmp_path / "page"
    artifact = publish(store, "saliency")
    kept = web_fixtures.write_model(tmp_path / "float32")
    least = "float32" if weights == "float16" else "more than float32"

    def as_tfjs(store, artifact, weights="float32"):
        if weights != least:
            raise ParityError(f"{weights} differs by 0.04, wanted 0.005")
        return kept

    monkeypatch.setattr("compress.jobs.export.as_tfjs", as_tfjs)
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, ["demo", "--store", str(store.root), "--out", str(page), "--weights", weights])
    said = capsys.readouterr().err
    if weights == "float32":
        assert stopped.value.code == 5 and "differs" in said and not page.exists()
        return
    assert stopped.value.code == 0 and "float16 differs by 0.04" in said and "http.server" in said
    card = json.loads((page / "models" / artifact.id / "manifest.json").read_text())
    assert card["weights"] == "float32" and card["bytes"] == sum(path.stat().st_size for path in kept.iterdir())


@needs_packages
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_the_command_refuses_before_it_begins(tmp_path, capsys, flags):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stopped:
            launch(cli.app, ["demo", *map(str, arguments), "--store", str(tmp_path / "store"), *flags])
        return stopped.value.code, capsys.readouterr().err

    code, said = refused("nothing", "--out", tmp_path / "out")
    assert code == 4 and "no artifact 'nothing'" in said
    publish(Store(tmp_path / "store"), "saliency")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine").touch()
    code, said = refused("--out", tmp_path / "letters")
    assert code == 2 and "holds something else" in said and "--out" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "store"]
    assert not (tmp_path / "store" / "cache").exists()


@needs_packages
def test_the_command_plans_in_words(tmp_path, capsys):
    store = Store(tmp_path / "store")
    artifact = publish(store, "saliency")
    assert run(capsys, "demo", "--store", store.root, "--dry-run") == f"would show {artifact.name} in demo\n"
