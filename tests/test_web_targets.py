"""The browser targets as `benchmarks run` sees them; what happens inside a browser is test_browser's."""

import json
import stat

import psutil
import pytest
from browsers import needs_chromium
from tiny_store import publish, record

from benchmarks import commands
from benchmarks.choose import choose_targets
from benchmarks.commands import Options
from benchmarks.rows import NETWORKS, ROUND_TRIPS, Compared, Entry, Longest, Measured, Setting, rows_of
from benchmarks.targets import TARGETS
from benchmarks.targets.base import How
from compress.core.errors import CompressError, MissingExtraError
from compress.core.machine import this_machine
from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.web import find_browser

WEB = [name for name in TARGETS.names() if TARGETS.get(name).web]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with two browsers that are none."""
    for name in ("chromium", "firefox-esr"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_targets_of_the_card_are_there():
    assert set(WEB) == {"webgl", "webgl-f16", "wasm", "webgpu"}


def test_a_row_is_called_after_target_runtime_and_browser(programs):
    wasm = TARGETS.get("wasm")
    assert wasm.configured(How()).label == "wasm"
    assert wasm.configured(How(runtime="ort-web")).label == "ort-wasm"
    assert wasm.configured(How(browser="firefox")).label == "wasm-firefox"
    assert wasm.configured(How(runtime="ort-web", browser=str(programs / "firefox-esr"))).label == "ort-wasm-firefox"


def test_each_way_that_was_chosen_is_a_target_of_its_own(programs, monkeypatch):
    monkeypatch.setattr(type(TARGETS.get("wasm")), "available", lambda self: "")
    hows = [How("tfjs"), How("ort-web"), How("tfjs", "firefox")]
    found = choose_targets(("cpu", "wasm", "cpu"), hows)
    assert [target.label for target in found] == ["cpu", "wasm", "ort-wasm", "wasm-firefox"]


def test_the_first_browser_found_is_taken_and_none_is_told_with_the_line_that_installs_one(programs):
    assert find_browser() == ("chromium", str(programs / "chromium"))
    (programs / "chromium").unlink()
    assert find_browser() == ("firefox", str(programs / "firefox-esr"))
    with pytest.raises(MissingExtraError, match="no chromium found on PATH; make setup-browser"):
        find_browser("chromium")
    (programs / "firefox-esr").unlink()
    with pytest.raises(MissingExtraError, match="apt-get install") as caught:
        find_browser()
    assert caught.value.exit_code == 3
    assert "apt-get install" in TARGETS.get("webgl").available()


@pytest.mark.parametrize(
    ("runtime", "fields", "words"),
    [
        ("tfjs", {"format": "tfjs", "dtype": "uint8"}, ""),
        ("tfjs", {"format": "onnx", "dtype": "float16"}, ""),
        ("tfjs", {"format": "onnx", "dtype": "int8"}, "--runtime ort-web"),
        ("tfjs", {"format": "saved_model"}, "can't become a TF.js model"),
        ("ort-web", {"format": "onnx", "dtype": "int8"}, ""),
        ("ort-web", {"format": "tfjs"}, "can't run tfjs files"),
    ],
)
def test_what_a_browser_runs(runtime, fields, words):
    said = TARGETS.get("wasm").configured(How(runtime=runtime)).can_run(record(**fields))
    assert words in said
    assert bool(words) == bool(said)


def test_onnx_runtime_web_is_measured_where_its_values_are_right():
    for name in ("webgl", "webgl-f16"):
        assert "wrong values" in TARGETS.get(name).configured(How(runtime="ort-web")).available()


def measured(**fields):
    entry = Entry(record(id="m"), "wasm", None, 32, 32, "wasm")
    return Measured(entry, **{"load": 0.5, "first": 2.0, "latencies": (1.0, 3.0, 2.0), **fields})


def rows(found):
    setting = Setting("run", this_machine(), 1, 5, 2)
    return {row.quantity: row for row in rows_of(found, setting, {})}


def test_the_first_mask_waits_for_network_runtime_model_and_first_inference():
    sizes = {"raw": 3_000_000, "gzip": 1_000_000, "brotli": 900_000}
    found = rows(measured(start=0.25, download={"model": sizes, "runtime": {"raw": 9, "gzip": 600_000, "brotli": 5}}))
    assert [found[name].value for name in ("download", "download_gzip", "download_brotli")] == [3e6, 1e6, 9e5]
    # 1.6 MB are 12.8 Mbit: 8 s at slow 4G's 1.6 Mbit/s
    assert found["first_mask_4g"].value == pytest.approx(8.0 + 2 * 0.150 + 0.25 + 0.5 + 2.0)
    assert found["first_mask_cable"].value == pytest.approx(2.56 + ROUND_TRIPS * NETWORKS["cable"][1] + 2.75)
    assert found["first_mask_4g"].details["runtime_gzip"] == 600_000


def test_memories_parity_and_the_longest_side_become_rows():
    compared = Compared(2e-3, -1e-5, 4, "ref", "torch", 1e-3)
    found = rows(measured(memories={"js": 10, "wasm": 0}, compared=compared, longest=Longest(12.5, 1024, 768)))
    assert found["js_memory"].value == 10
    assert "wasm_memory" not in found
    assert found["parity_max"].details["passed"] is False
    assert found["parity_mae"].value == -1e-5
    assert found["longest"].value == 12.5
    assert (found["longest"].details["height"], found["longest"].details["width"]) == (1024, 768)
    assert found["longest"].details["limit"] == 25.0  # thesis 5


def test_a_failure_keeps_what_was_finished_once_the_latency_stands():
    assert set(rows(measured(latencies=(), failed="it hung"))) == {"failed"}
    after = rows(measured(failed="its tab died"))
    assert {"failed", "latency", "load"} <= set(after)
    assert after["failed"].details["reason"] == "its tab died"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("web") / "artifacts")
    publish(store, record(), find_network("u2netp").build(width=8))
    return store


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@needs_chromium
def test_wasm_and_its_peer_are_measured_as_every_other_target(store, capsys):
    before = children()
    shared = dict(store=store.root, limit=2, compared=2, repeats=3, warmup=1, threads=1, longest=64, check=True)
    outcome = commands.run(Options(target=("cpu", "wasm"), runtime=("tfjs", "ort-web"), **shared))
    capsys.readouterr()
    found = {(row.target, row.quantity): row for row in outcome.rows}
    for target in ("wasm", "ort-wasm"):
        assert found[target, "loss"].value == pytest.approx(found["cpu", "loss"].value, abs=1e-4)
        assert 0 < found[target, "parity_max"].value < 1e-3
        assert len(found[target, "latency"].repeats) == 3
        assert found[target, "download_gzip"].value < found[target, "download"].value
        assert found[target, "first_mask_4g"].value > found[target, "first_mask_cable"].value
        assert found[target, "longest"].details["height"] == 64
        runtime = found[target, "latency"].details["runtime"]
        assert (runtime["backend"], runtime["threads"]) == ("wasm", 1)
        assert runtime["browser_version"]
        json.dumps(runtime)
    assert children() == before


@needs_chromium
def test_a_browser_that_dies_is_a_failed_row_and_the_others_go_on(store, tmp_path, capsys):
    fake = tmp_path / "chromium-that-dies"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    shared = dict(store=store.root, limit=0, repeats=1, warmup=0, threads=1, patience=20.0)
    before = children()
    with pytest.raises(CompressError, match="1 of 2 could not be measured"):
        commands.run(Options(target=("cpu", "wasm"), browser=(str(fake),), **shared))
    assert children() == before
    newest = store.rows()[-1].run
    found = {(row.target, row.quantity): row for row in store.rows() if row.run == newest}
    assert ("cpu", "latency") in found
    assert [quantity for target, quantity in found if target == "wasm"] == ["failed"]
    assert found["wasm", "failed"].details["reason"]
    capsys.readouterr()
