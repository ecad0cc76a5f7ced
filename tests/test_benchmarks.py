import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from tiny_store import SIDE, publish, record

from benchmarks import commands
from benchmarks.choose import choose_models, choose_targets, match, ready
from benchmarks.commands import Options
from benchmarks.rows import Entry
from benchmarks.table import table
from benchmarks.targets import TARGETS
from compress.core.errors import ArtifactError, CompressError, MissingExtraError, ParityError, UsageError
from compress.core.machine import this_machine
from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.types import ImageSpec, Row, from_json
from compress.formats.onnx import OnnxRunner
from compress.formats.safetensors import Safetensors
from compress.kit.data.sets import spread
from compress.kit.images import prepare
from compress.tasks import TASKS

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorflow")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with one real artifact that every target has prepared: the export takes its time once."""
    torch.manual_seed(0)
    store = Store(tmp_path_factory.mktemp("made") / "artifacts")
    artifact = publish(store, record(), find_network("u2netp").build(width=8))
    for name in TARGETS.names():
        if not TARGETS.get(name).available():
            TARGETS.get(name).prepare(store, artifact)
    return store


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "artifacts")
    return Store(tmp_path / "artifacts")


@pytest.fixture(params=TARGETS.names())
def target(request):
    found = TARGETS.get(request.param)
    if found.available():
        pytest.skip(found.available())
    return found


def opened(target, store, artifact):
    path = target.prepare(store, artifact)
    target.start()
    return target.open(store, artifact, path, 1)


def test_a_target_is_named_after_its_file_and_says_what_it_is(target):
    assert target.name in TARGETS
    assert TARGETS.get(target.name) is target
    assert TARGETS.help(target.name)


def test_a_target_says_why_it_can_not_run_a_format(target):
    assert "a.out" in target.can_run(record(format="a.out"))


def test_a_target_runs_an_artifact_as_the_others_do(target, made):
    artifact = made.get("tiny")
    assert target.can_run(artifact) == ""
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    before = images.copy()
    runner, reference = opened(target, made, artifact), opened(TARGETS.get("torch"), made, artifact)
    found = runner(images)
    assert found.dtype == np.float32
    assert found.shape == (2, 1, SIDE, SIDE)
    assert found.std() > 1e-3  # a flat picture would agree with anything flat
    # 10 bits of a float16's fraction through some forty layers
    np.testing.assert_allclose(found, reference(images), atol=5e-3 if target.name == "webgl-f16" else 1e-4)
    np.testing.assert_array_equal(images, before)
    assert {"runtime", "version", "threads", "provider"} <= set(runner.describe)
    json.dumps(runner.describe)
    runner.close()


def python(*arguments, cwd=None):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command_line_and_every_target_import_no_framework():
    names = [f"benchmarks.targets.{TARGETS.stem(name)}" for name in TARGETS.names()]
    modules = ["benchmarks.cli", "benchmarks.commands", "benchmarks.harness", "benchmarks.worker", *names]
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY} if m in sys.modules])"
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_list_names_every_target():
    done = python("-m", "benchmarks", "list", "--json")
    assert [entry["name"] for entry in json.loads(done.stdout)] == TARGETS.names()
    assert all(set(entry) == {"name", "help", "missing"} for entry in json.loads(done.stdout))
    lines = python("-m", "benchmarks", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == TARGETS.names()


def test_the_line_of_the_card_measures_what_the_store_has(store):
    done = python(
        "-m", "benchmarks", "run", "--target", "cpu", "--limit=0", "--repeats=2", "--threads=1", cwd=store.root.parent
    )
    assert done.returncode == 0, done.stderr
    artifact, rows = store.get("tiny"), store.rows()
    assert done.stderr.splitlines()[0] == f"measuring tiny ({artifact.id}) on cpu"
    assert done.stdout.splitlines()[-1] == rows[0].run
    assert "tiny" in done.stdout
    assert {row.target for row in rows} == {"cpu"}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--target", "cpi"], 2, "did you mean 'cpu'?"),
        (["--repeats", "0"], 2, "--repeats is 0"),
        (["--warmup", "-1"], 2, "--warmup is -1"),
        (["--model", "nothing-like-it"], 4, "nothing-like-it"),
        ([], 4, "compress train"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(tmp_path, flags, code, words):
    done = python("-m", "benchmarks", "run", "--store", str(tmp_path / "none"), *flags)
    assert done.returncode == code
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert words in line


def test_both_targets_in_one_run_give_the_same_quality_and_rows_as_json(store, capsys):
    options = Options(store=store.root, target=("cpu", "torch"), limit=2, repeats=3, warmup=1, threads=1, json=True)
    outcome = commands.run(options)
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == outcome.run
    assert told["failed"] == {}
    assert [from_json(Row, row) for row in told["rows"]] == outcome.rows == store.rows()
    values = {(row.target, row.quantity): row for row in outcome.rows}
    for metric in TASKS.get("saliency").metrics:
        ours, theirs = values["cpu", metric.name], values["torch", metric.name]
        assert ours.value == pytest.approx(theirs.value, abs=1e-3)
        assert (ours.unit, ours.better) == (metric.unit, metric.better)
    loss = values["cpu", "loss"]
    assert loss.value == pytest.approx(np.mean(loss.repeats))
    assert len(loss.repeats) == 2 == values["cpu", "images"].value
    assert loss.details["split"] == "test"
    assert loss.details["size"] == SIDE
    pictures = store.pictures(loss.details["data"], store.get("tiny").id)
    assert len(list(pictures.glob("*.mask.png"))) == 2
    # the session of ONNX Runtime is weighed alone: torch, which scoring needs, comes after
    assert values["cpu", "peak_memory"].value < 0.7 * values["torch", "peak_memory"].value
    assert values["cpu", "size"].value != values["torch", "size"].value == store.get("tiny").bytes


@pytest.mark.slow
def test_every_model_is_compared_with_the_network_it_came_from(store, capsys):
    tiny = store.get("tiny")
    graph = onnx.load(TARGETS.get("cpu").prepare(store, tiny))
    [weight, *_] = [tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4]
    bent = onnx.numpy_helper.to_array(weight) * 1.5
    weight.CopyFrom(onnx.numpy_helper.from_array(bent.astype(np.float32), weight.name))
    with store.draft() as draft:
        onnx.save(graph, draft / "model.onnx")
        other = store.publish(
            draft, replace(tiny, id="", name="bent", format="onnx", parent=tiny.id, created="2026-02")
        )
    options = Options(
        store=store.root, target=("cpu", "torch"), limit=3, compared=2, repeats=1, warmup=0, threads=1, check=True
    )
    with pytest.raises(ParityError, match="1 of 3 models") as caught:
        commands.run(options)
    assert caught.value.exit_code == 5
    capsys.readouterr()
    rows = {(row.artifact, row.target, row.quantity): row for row in store.rows()}
    photos = spread(TASKS.get("saliency").open(["builtin"], "test"), 3)
    images = [prepare(photos.original(index)["image"], tiny.input)[None] for index in (0, 1)]
    truth = Safetensors().load(store.folder(tiny), tiny)
    mine = OnnxRunner(store.folder(other) / "model.onnx")
    expected = max(np.abs(truth(image) - mine(image)).max() for image in images)
    found = rows[other.id, "cpu", "parity_max"]
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.details["passed"] is False
    assert (found.details["images"], found.details["reference"], found.details["limit"]) == (2, tiny.id, 1e-3)
    assert rows[tiny.id, "cpu", "parity_max"].value < 1e-4
    assert rows[tiny.id, "cpu", "parity_max"].details["passed"] is True
    assert rows[tiny.id, "torch", "parity_max"].value < 1e-6
    assert abs(rows[tiny.id, "cpu", "parity_mae"].value) < 1e-4 < abs(rows[other.id, "cpu", "parity_mae"].value)


def test_a_damaged_model_does_not_take_the_others_along(store, capsys):
    bad = publish(store, record("bad"), find_network("u2netp").build(width=4))
    weights = store.folder(bad) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    options = Options(store=store.root, target=("torch",), limit=0, repeats=2, warmup=0, threads=1)
    with pytest.raises(CompressError, match="1 of 2 could not be measured") as caught:
        commands.run(options)
    assert caught.value.exit_code == 1
    assert {row.artifact for row in store.rows() if row.quantity != "failed"} == {store.get("tiny").id}
    [failed] = [row for row in store.rows() if row.quantity == "failed"]
    assert failed.artifact == bad.id
    assert "sha256" in failed.details["reason"]
    assert store.rows()[0].run in capsys.readouterr().out


def test_a_dry_run_says_what_it_would_measure_and_writes_nothing(store, capsys):
    before = sorted(store.root.rglob("*"))
    assert commands.run(Options(store=store.root, limit=0, dry_run=True)) is None
    assert "would measure tiny" in capsys.readouterr().out
    assert commands.run(Options(store=store.root, limit=0, dry_run=True, json=True)) is None
    assert json.loads(capsys.readouterr().out)["plan"][0]["name"] == "tiny"
    assert sorted(store.root.rglob("*")) == before


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(store):
    with pytest.raises(UsageError, match="no-such-folder"):
        commands.run(Options(store=store.root, data=("no-such-folder",)))
    assert store.rows() == []


def test_ctrl_c_ends_in_order_says_so_and_keeps_what_is_done(store):
    command = [sys.executable, "-m", "benchmarks", "run", "--store", str(store.root), "--target", "torch"]
    command += ["--limit=0", "--repeats=1000000", "--threads=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in range(2)]
        assert lines[1].startswith("load and warm up 1/1")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "interrupted; what was finished is kept"
    assert {row.quantity for row in store.rows()} == {"size", "parameters", "macs", "load", "first"}


def put(store, artifact):
    with store.draft() as draft:
        (draft / "weights.safetensors").write_bytes(artifact.name.encode())
        return store.publish(draft, artifact)


def test_without_a_name_all_of_the_newest_task_are_taken_but_for_the_rejected(tmp_path):
    store = Store(tmp_path / "store")
    put(store, record("other", task="retouch", created="2026-01-01"))
    old = put(store, record("old", created="2026-01-02"))
    rejected = put(store, record("rejected", notes={"rejected": "its masks are dead"}, created="2026-01-03"))
    new = put(store, record("new", created="2026-01-04"))
    assert choose_models(store, ()) == [old, new]
    assert choose_models(store, ("rejected", rejected.id)) == [rejected]


def test_models_of_several_tasks_are_not_measured_together(tmp_path):
    store = Store(tmp_path / "store")
    put(store, record("a", task="retouch"))
    put(store, record("b"))
    with pytest.raises(UsageError, match="retouch, saliency"):
        choose_models(store, ("a", "b"))


def test_what_a_target_can_not_run_is_left_out_and_nothing_left_is_an_error():
    runs, not_this = record("runs", id="1"), record("not-this", id="2", format="onnx")
    targets = choose_targets(("torch", "cpu", "torch"))
    assert [target.name for target in targets] == ["torch", "cpu"]
    assert [(a.name, t.label) for a, t in match([runs, not_this], targets).pairs] == [
        ("runs", "torch"),
        ("runs", "cpu"),
        ("not-this", "cpu"),
    ]
    with pytest.raises(UsageError, match=r"not-this .* can't become a torch module"):
        match([not_this], choose_targets(("torch",)))


def test_a_target_that_is_not_here_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(type(TARGETS.get("cpu")), "available", lambda self: "no such package")
    with pytest.raises(MissingExtraError, match="no such package"):
        choose_targets(("cpu",))


def test_a_size_a_network_does_not_run_at_is_refused_before_anything_is_measured(tmp_path):
    fixed = record("fixed", id="1", input=ImageSpec(height=SIDE, width=SIDE, dynamic=False))
    with pytest.raises(UsageError, match="runs at 32x32 only"):
        ready(Store(tmp_path), match([fixed], choose_targets(("torch",))), 64)


def test_a_lost_export_is_told_and_the_rest_goes_on(store, monkeypatch):
    def refuse(self, store, artifact):
        raise ArtifactError("it can't be exported")

    monkeypatch.setattr(type(TARGETS.get("cpu")), "prepare", refuse)
    artifact = store.get("tiny")
    choice = ready(store, match([artifact], choose_targets(("cpu", "torch"))), None)
    assert [entry.target for entry in choice.entries] == ["torch"]
    [(entry, why)] = choice.refused
    assert (entry.artifact.id, entry.target, why) == (artifact.id, "cpu", "it can't be exported")


def measured(artifact, quantity, value):
    return Row(artifact, "cpu", quantity, value, "", "none", "run", this_machine())


def test_the_table_sets_speed_against_the_biggest_model():
    entries = [Entry(record(name, id=name), "cpu", None, SIDE, SIDE) for name in ("small", "big", "failed")]
    rows = [
        measured("small", "size", 1e6), measured("small", "latency", 0.010), measured("small", "loss", 0.25),
        measured("big", "size", 4e6), measured("big", "latency", 0.035),
    ]  # fmt: skip
    head, small, big, failed = (line.split() for line in table(entries, rows).splitlines())
    assert head[:4] == ["model", "id", "target", "MB"]
    assert small == ["small", "small", "cpu", "1.00", "0.2500", "-", "10.00", "3.50x", "-", "-"]
    assert big == ["big", "big", "cpu", "4.00", "-", "-", "35.00", "1.00x", "-", "-"]
    assert failed == ["failed", "failed", "cpu", *["-"] * 7]
