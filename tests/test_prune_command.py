"""`compress prune` as a user runs it: what is kept, found again, rejected and refused, and what others make of it."""

import json

import pytest
import torch
from tiny_store import publish, record

from compress import cli
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import MANIFEST, Store
from compress.core.types import ImageSpec
from compress.jobs import prune as job
from compress.jobs.models import load_module
from compress.kit.graph import count_macs, count_parameters
from compress.tasks import TASKS

pytest.importorskip("torch_pruning")

FASTER = ([0.02] * 9, [0.01] * 9)
SLOWER = ([0.01] * 9, [0.02] * 9)


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def spec(which) -> ImageSpec:
    from dataclasses import replace

    return replace(which, height=32, width=32)


@pytest.fixture(autouse=True)
def few_photos(monkeypatch):
    """Three photos of the builtin set are enough to score on."""
    from compress.kit.data.sets import Subset

    task = TASKS.get("retouch")
    whole = type(task).open
    monkeypatch.setattr(type(task), "open", lambda self, *a, **k: Subset(whole(self, *a, **k), (0, 1, 2)))


@pytest.fixture
def timed(monkeypatch):
    """Seconds of parent and child are as given: how fast this machine is today must not decide a test."""

    def set_to(seconds):
        monkeypatch.setattr(job._Desk, "_seconds", lambda self, thin, child: seconds)

    return set_to


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.manual_seed(0)
    kept = Store(tmp_path_factory.mktemp("store"))
    task = TASKS.get("retouch")
    net = find_network("csrnet").build(width=32).eval()
    made = record("net", network="csrnet", task="retouch", network_options={"width": 32}, input=spec(task.input),
                  output=spec(task.output), parameters=count_parameters(net))  # fmt: skip
    publish(kept, made, net)
    return kept


def newest(store, name):
    return next(a for a in reversed(store.artifacts()) if a.name == name)


def prune(store, *arguments):
    return run("prune", "--model", "net", "--store", store.root, "--data", "builtin", *arguments)


def test_it_is_kept_with_what_was_done_and_found_again(store, timed, capsys):
    timed(FASTER)
    assert prune(store, "--ratio", 0.5, "--name", "half") == 0
    said = capsys.readouterr()
    made, parent = newest(store, "half"), newest(store, "net")
    assert f"next: compress distill --teacher {parent.id} --student {made.id}" in said.err
    assert "parameters" in said.err and "MACs" in said.err
    module = load_module(store, made)
    assert made.parameters == count_parameters(module) < parent.parameters / 2
    assert made.macs == count_macs(module, (32, 32))
    assert made.network_options == parent.network_options
    assert (made.parent, made.method, made.network) == (parent.id, "prune", "csrnet")
    told = made.notes["pruned"]
    layers = {layer["path"]: (layer["before"], layer["after"]) for layer in told["layers"]}
    assert layers["first.conv"] == (32, 16)
    assert layers["first.scale"] == (32, 16)
    assert layers["third.conv"] == (3, 3)
    assert told["parameters"] == [parent.parameters, made.parameters]
    assert told["stays"] == [{"path": "third.conv", "why": "it makes an output"}]
    assert made.metrics["images"] == made.notes["parent_metrics"]["images"] == 3
    assert made.notes["verdict"]["loss"] is not None
    assert made.notes["verdict"]["speed"]["value"] == pytest.approx(2.0)
    assert "rejected" not in made.notes
    count = len(store.artifacts())
    assert prune(store, "--ratio", 0.5, "--name", "half") == 0
    assert len(store.artifacts()) == count
    assert capsys.readouterr().out.strip() == made.id


def test_what_is_not_faster_is_rejected_with_what_to_try_unless_forced(store, timed, capsys):
    timed(SLOWER)
    assert prune(store, "--ratio", 0.25, "--round-to", 1) == 6
    said = capsys.readouterr().err
    assert "0.50x the speed of its parent" in said and "--round-to 8" in said and "--target none" in said
    assert not any(a.name == "net-pruned-0.25" for a in store.artifacts())
    assert prune(store, "--ratio", 0.25, "--round-to", 1, "--force") == 0
    assert "0.50x" in newest(store, "net-pruned-0.25").notes["rejected"][0]


def test_a_draw_is_not_faster_and_without_a_target_nothing_is_timed(store, timed):
    timed(([0.01, 0.02] * 6, [0.01, 0.02] * 6))
    assert prune(store, "--ratio", 0.3) == 6
    assert prune(store, "--ratio", 0.3, "--target", "none") == 0
    assert newest(store, "net-pruned-0.3").notes["verdict"]["speed"] is None


def test_both_are_timed_as_onnx_for_real(store):
    assert prune(store, "--ratio", 0.75, "--name", "timed", "--force") == 0
    speed = newest(store, "timed").notes["verdict"]["speed"]
    assert speed["n"] >= 7
    assert speed["low"] <= speed["value"] <= speed["high"]


def test_every_importance_scope_and_rounds(store, timed):
    timed(FASTER)
    rest = ["--round-to", 4, "--target", "none"]
    for importance in ("l1", "random"):
        assert prune(store, *rest, "--importance", importance, "--scope", "global", "--rounds", 2) == 0
    assert prune(store, *rest, "--importance", "taylor", "--batches", 2, "--rounds", 2, "--name", "taylor") == 0
    made = newest(store, "taylor")
    assert made.data
    free = [layer["after"] for layer in made.notes["pruned"]["layers"] if not layer["path"].startswith("third")]
    assert free and all(count % 4 == 0 for count in free)


def test_a_share_of_the_macs_and_exclusions(store, timed):
    timed(FASTER)
    assert prune(store, "--macs", 0.3, "--round-to", 1, "--rounds", 2, "--exclude", "second") == 0
    made = newest(store, "net-pruned-0.3-macs")
    before, after = made.notes["pruned"]["macs"]
    assert 0.2 * before < after <= 0.3 * before
    widths = {layer["path"]: (layer["before"], layer["after"]) for layer in made.notes["pruned"]["layers"]}
    assert all(a == b for path, (a, b) in widths.items() if path.startswith("second"))
    assert widths["condition.convs.0"][1] < widths["condition.convs.0"][0]


def test_a_pruned_network_is_pruned_exported_quantized_and_scored_like_any_other(store, timed):
    timed(FASTER)
    assert prune(store, "--ratio", 0.5, "--name", "once") == 0
    common = ["--store", store.root, "--data", "builtin"]
    assert run("prune", "--model", "once", *common, "--ratio", 0.5, "--round-to", 1, "--name", "twice") == 0
    twice = newest(store, "twice")
    assert twice.parent == newest(store, "once").id
    assert twice.widths["first.conv"] == [8, 3, 1, 1]
    assert run("evaluate", "--model", "twice", *common, "--split", "val") == 0
    assert run("quantize", "--model", "twice", *common, "--dtype", "int8w", "--force", "--name", "small") == 0
    assert newest(store, "small").parameters == twice.parameters


def test_dry_run_and_json(store, timed, capsys):
    timed(FASTER)
    count = len(store.artifacts())
    assert prune(store, "--ratio", 0.6, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["options"]["ratio"] == 0.6
    assert len(store.artifacts()) == count
    assert prune(store, "--ratio", 0.6, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["widths"]["first.conv"][0] == 16


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--ratio", 0], 2, "between 0 and 1, found 0"),
        (["--ratio", 1], 2, "between 0 and 1"),
        (["--ratio", -0.5], 2, "between 0 and 1"),
        (["--ratio", "nan"], 2, "between 0 and 1"),
        (["--macs", 2], 2, "between 0 and 1"),
        (["--macs", 0.5, "--ratio", 0.5], 2, "exclude each other"),
        (["--round-to", 0], 2, "above 0"),
        (["--rounds", -1], 2, "above 0"),
        (["--exclude", "frist"], 2, "did you mean 'first'"),
        (["--importance", "bn"], 2, "no norm with a scale"),
        (["--round-to", 64], 2, "keeps its channels"),
        (["--macs", 0.0001], 2, "can't be"),
    ],
)
def test_what_can_not_be_is_refused(store, arguments, code, told, capsys):
    count = len(store.artifacts())
    assert prune(store, *arguments) == code
    assert told in capsys.readouterr().err
    assert len(store.artifacts()) == count


def test_an_onnx_file_has_nothing_to_prune(store, capsys):
    assert run("export", "--model", "net", "--store", store.root, "--name", "file") == 0
    assert run("prune", "--model", "file", "--store", store.root) == 4
    assert "can't become a torch module" in capsys.readouterr().err


def test_a_hostile_manifest_is_refused(store, timed, capsys):
    timed(FASTER)
    assert prune(store, "--ratio", 0.5, "--name", "victim", "--importance", "l1") == 0
    made = newest(store, "victim")
    path = store.folder(made) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["widths"]["first.conv"][0] = 10**12
    path.write_text(json.dumps(manifest))
    assert run("evaluate", "--model", made.id, "--store", store.root, "--data", "builtin") == 4
    assert "wanted 1 to" in capsys.readouterr().err
