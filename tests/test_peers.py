"""The bench of other quantizers: what it measures, what it says of peers that don't run, its table."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_store import SIDE, record

from benchmarks.peers import PEERS
from benchmarks.peers.made import Job, make
from benchmarks.peers.measure import Pictures, score, time_in_turns, times_faster
from benchmarks.peers.run import Wish, read, run
from benchmarks.peers.runners import openers, stored_bytes
from benchmarks.peers.table import table
from compress.core.errors import CompressError, UsageError
from compress.core.store import Store
from compress.kit.data.sets import Subset
from compress.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]


def network(path):
    """A mask by hand: three convolutions and a sigmoid."""
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (1, 8, 3, 3)}
    weights = [numpy_helper.from_array((random.normal(size=s) / 4).astype(np.float32), n) for n, s in shapes.items()]
    around = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], **around),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], **around),
        helper.make_node("Conv", ["c", "w3"], ["d"], **around),
        helper.make_node("Sigmoid", ["d"], ["mask"]),
    ]
    free = [None, 3, None, None]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, free)
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [None, 1, None, None])
    graph = helper.make_graph(nodes, "tiny", [image], [mask], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    with store.draft() as draft:
        network(draft / "model.onnx")
        store.publish(draft, record(format="onnx", network="", network_options={}))
    return store


def wish(store, out, **fields):
    values = dict(
        store=store.root, model="tiny", data=("builtin",), peers=("ort_default",), seeds=(0,), calibration=3, limit=12,
        size=None, threads=1, repeats=6, python=None, patience=300.0, out=out,
    )  # fmt: skip
    return Wish(**(values | fields))


@pytest.fixture(scope="module")
def ran(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "peers.json"
    peers = ("ort_default", "ort_u8s8", "nncf_onnx")
    return run(wish(store, out, peers=peers, seeds=(0, 1))), out


def entry(result, name):
    return next(each for each in result["peers"] if each["peer"] == name)


def test_every_seed_of_every_peer_is_scored_and_every_file_timed(ran):
    result, out = ran
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert result["tested"] == 12
    for name in ("ort_default", "ort_u8s8"):
        found = entry(result, name)
        assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
        for seed in found["seeds"]:
            assert 0 < seed["dmae"]["low"] <= seed["dmae"]["value"] <= seed["dmae"]["high"] < 0.1
            assert seed["loss_difference"]["n"] == 12
            assert abs(seed["loss"] - result["reference"]["loss"] - seed["loss_difference"]["value"]) < 1e-9
            assert seed["seconds"] > 0
        assert found["latency"]["ort"]["ratio"]["value"] > 0
        assert len(found["latency"]["ort"]["repeats"]) == 6
    assert result["latency"]["ort"]["ratio"]["value"] == 1.0


def test_other_seeds_calibrate_on_other_photos(ran):
    first, second = entry(ran[0], "ort_default")["seeds"]
    assert first["dmae"]["value"] != second["dmae"]["value"]


def test_a_peer_without_its_venv_is_a_row_that_says_so(ran):
    found = entry(ran[0], "nncf_onnx")
    assert found["seeds"] == []
    assert "--python" in found["why"]
    assert "nncf_onnx does not run" in table(ran[0])


def test_the_table_has_a_row_for_float32_and_each_peer_and_can_be_read_again(ran):
    result, out = ran
    text = table(read(out))
    assert text == table(result)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows] == ["peer", "---", "float32", "ort_default", "ort_u8s8"]
    assert {len(row) for row in rows} == {9}
    mean = np.mean([seed["dmae"]["value"] for seed in entry(result, "ort_u8s8")["seeds"]])
    assert rows[-1][5].startswith(f"{mean:.5f} (")
    assert rows[-1][5].count(",") == 1  # each of the two seeds beside the mean
    assert re.search(r"ort \d+\.\d\dx \(", rows[-1][8])


class Made:
    """A runner that answers with a function of the image."""

    def __init__(self, answer):
        self.answer, self.describe = answer, {}

    def __call__(self, image):
        return self.answer(image)

    def close(self):
        pass


def test_dmae_is_the_mean_difference_to_the_float32_picture(tmp_path):
    task = TASKS.get("saliency")
    spec = replace(task.input, height=SIDE, width=SIDE)
    data = Subset(task.open(["builtin"], "test"), tuple(range(11)))
    pictures = Pictures(tmp_path)

    def mask(image):
        return np.full((1, 1, SIDE, SIDE), 0.5, np.float32) + image[:, :1] * 0

    def off(image):
        shifted = mask(image)
        shifted[..., : SIDE // 2] += 0.25  # half of the places
        return shifted

    reference = score(Made(mask), spec, task, data, pictures, lambda note="": None, first=True)
    other = score(Made(off), spec, task, data, pictures, lambda note="": None, first=False)
    assert reference.distances == ()
    found = other.beside(reference)
    assert found["dmae"]["value"] == pytest.approx(0.125)
    assert found["dmae"]["n"] == 11
    same = score(Made(mask), spec, task, data, pictures, lambda note="": None, first=False).beside(reference)
    assert same["dmae"]["value"] == 0.0
    assert same["loss_difference"]["value"] == 0.0


def test_dead_masks_are_told(tmp_path):
    task = TASKS.get("saliency")
    spec = replace(task.input, height=SIDE, width=SIDE)
    data = Subset(task.open(["builtin"], "test"), (0, 1))
    nothing = Made(lambda image: np.zeros((1, 1, SIDE, SIDE), np.float32))
    assert score(nothing, spec, task, data, Pictures(tmp_path), lambda note="": None, first=True).dead == 2


def test_what_slows_a_round_slows_neither_side_of_its_ratio():
    slow = np.repeat([1.0, 5.0, 2.0, 9.0, 1.5], 4)
    found = times_faster(list(3.0 * slow), list(slow))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((3.0, 3.0, 3.0))
    assert found["n"] == 20
    noisy = times_faster(list(np.random.default_rng(0).uniform(1, 3, 40)), [1.0] * 40)
    assert noisy["low"] < noisy["value"] < noisy["high"]


def test_runners_are_timed_in_turns():
    seen = []
    runners = {name: Made(lambda image, name=name: seen.append(name) or time.sleep(0.001)) for name in "abc"}
    seconds = time_in_turns(runners, np.zeros((1, 3, 4, 4), np.float32), 3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(seen) == "abcabc" + "abc" + "bca" + "cab"
    assert all(value >= 0.001 for values in seconds.values() for value in values)


def job(store, tmp_path, **fields):
    artifact = store.get("tiny")
    np.save(tmp_path / "photos.npy", np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32))
    values = dict(
        store=store, artifact=artifact, source=store.folder(artifact) / "model.onnx", photos=tmp_path / "photos.npy",
        seed=0, calibration=2, size=None, data=("builtin",), python=None, patience=300.0,
    )  # fmt: skip
    return Job(**(values | fields))


def test_what_a_peer_stumbles_over_is_its_reason(store, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    made = make("ort_default", job(store, tmp_path, source=broken), tmp_path / "a")
    assert made.file is None
    assert re.match(r"\w+(Error|Exception|Protobuf)?: .+", made.why)
    late = make("ort_default", job(store, tmp_path, patience=0.05), tmp_path / "b")
    assert "not done after" in late.why
    absent = make("aimet", job(store, tmp_path, python=tmp_path / "no" / "python"), tmp_path / "c")
    assert "no Python at" in absent.why
    # this Python has none of the packages of other venvs
    unset = make("aimet", job(store, tmp_path, python=Path(sys.executable)), tmp_path / "d")
    assert "ModuleNotFoundError" in unset.why


@pytest.mark.slow
def test_pt2e_as_its_documentation_shows_it_keeps_integers_in_its_file(store, tmp_path):
    pytest.importorskip("torchao")
    from compress.formats.onnx import OnnxRunner
    from compress.kit.graph import sqnr

    task = job(store, tmp_path)
    made = make("pt2e", task, tmp_path / "pt2e")
    assert made.why == ""
    image = np.load(task.photos)[:1]
    runners = openers(made.file, image.shape, 1)
    assert list(runners) == ["torch", "inductor"]
    theirs = runners["torch"]()(image)
    assert 20 < sqnr(OnnxRunner(task.source)(image), theirs) < 80
    import torch

    kept = torch.export.load(made.file).state_dict
    assert sum(value.numel() for value in kept.values() if value.dtype == torch.int8) == 27 * 8 + 72 * 8 + 72
    assert not [name for name, value in kept.items() if value.dtype == torch.float32 and value.ndim == 4]


def test_openvinos_weights_count(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"123")
    (tmp_path / "a.bin").write_bytes(b"4567")
    (tmp_path / "b.onnx").write_bytes(b"89")
    assert stored_bytes(tmp_path / "a.xml") == 7
    assert stored_bytes(tmp_path / "b.onnx") == 2


def test_what_cannot_be_run_is_refused(store, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'ort_default'"):
        run(wish(store, tmp_path / "a.json", peers=("ort_defualt",)))
    with pytest.raises(CompressError, match="no result"):
        read(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(CompressError, match="no result"):
        read(tmp_path / "other.json")


def test_the_command_line_tells_what_it_wants():
    command = [sys.executable, "-m", "benchmarks.peers", "--data", "builtin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--out FILE.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_peer_imports_ours_at_its_top():
    """In another venv nothing of ours can be imported but what needs numpy alone."""
    modules = {peer.module for peer in PEERS.values() if peer.elsewhere} | {"child", "feed", "__init__"}
    for name in modules:
        text = (ROOT / "benchmarks" / "peers" / f"{name}.py").read_text()
        assert not re.search(r"^(from|import) (compress|teachers|students)", text, re.MULTILINE), name


@pytest.mark.slow
def test_ours_runs_by_the_public_command(store, tmp_path):
    result = run(wish(store, tmp_path / "a.json", peers=("ours", "pt2e"), repeats=5))
    ours, pt2e = (entry(result, name) for name in ("ours", "pt2e"))
    assert ours["why"] == pt2e["why"] == ""
    assert ours["seeds"][0]["bytes"] < result["reference"]["bytes"]
    assert "inductor" in pt2e["latency"]
