import os
import sys
import textwrap
import time
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import BLOCK, Plan, Scoring, measure
from benchmarks.process import Process, WorkerError
from benchmarks.rows import Entry, Measured, Setting, rows_of
from compress.core.machine import this_machine
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.kit.data.sets import spread

MB = 10**6

# The real worker with a target of the tests' own: what its model does stands in the artifact's options.
FAKE = textwrap.dedent(
    """
    import os, sys, time
    import numpy as np
    from benchmarks import worker
    from compress.core.errors import ArtifactError

    class Fake:
        describe = {"runtime": "fake"}

        def __init__(self, artifact, threads):
            self.options, self.name, self.calls = artifact.options, artifact.name, 0
            self.describe = {"runtime": "fake", "threads": threads}
            self.held = np.ones(self.options.get("hold", 0), np.uint8)
            if "refuse" in self.options:
                raise ArtifactError(self.options["refuse"], hint="give another")

        def __call__(self, image):
            self.calls += 1
            if "log" in self.options:
                with open(self.options["log"], "a") as stream:
                    stream.write(f"{self.name} {os.getpid()} {image.shape}\\n")
            if self.options.get("noisy"):
                print('{"seconds": [1]}', flush=True)
                os.write(1, b"from C\\n")
                os.system("echo from a child; read line; echo $line")
            if self.calls == self.options.get("raises"):
                raise ValueError("a tensor\\nof the wrong shape")
            if self.calls == self.options.get("exits"):
                print("Fatal: out of luck", file=sys.stderr, flush=True)
                os._exit(7)
            if self.calls == self.options.get("killed"):
                os.kill(os.getpid(), 9)
            time.sleep(self.options.get("sleep", 0))
            return np.full((1, 1, 32, 32), 0.25, np.float32)

        def close(self):
            if "closed" in self.options:
                open(self.options["closed"], "w").close()

    class Target:
        def configured(self, how): return self
        def start(self): pass
        def open(self, store, artifact, path, threads): return Fake(artifact, threads)

    class Targets:
        def get(self, name): return Target()

    worker.TARGETS = Targets()
    worker.main()
    """
)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    script = tmp_path_factory.mktemp("worker") / "fake.py"
    script.write_text(FAKE)
    return (sys.executable, str(script))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def entry(name, **options):
    spec = ImageSpec(height=32, width=32)
    artifact = Artifact(
        id=f"id-{name}", name=name, kind="student", task="saliency", network="", network_options={}, format="fake",
        dtype="float32", method="train", options=options, parent="", parent_sha256="", teacher="", key="", input=spec,
        output=ImageSpec(channels=1, height=32, width=32), files=(), parameters=10, macs=2000, data="", metrics={},
        machine=this_machine(), seed=0, versions={}, commit="", created="2026-01-01T00:00:00", seconds=0.0,
    )  # fmt: skip
    return Entry(artifact, "fake", None, 32, 32)


def row(outcome, name, quantity):
    [found] = [r for r in outcome.rows if (r.artifact, r.quantity) == (f"id-{name}", quantity)]
    return found


def test_models_take_turns_in_an_order_drawn_anew_each_round(store, command, tmp_path):
    log = tmp_path / "log"
    names = ["a", "b", "c"]
    plan = Plan(repeats=4 * BLOCK + 2, warmup=3, seed=1)
    outcome = measure(store, [entry(name, log=str(log)) for name in names], plan, command=command)
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    loading = len(names) * (1 + plan.warmup)
    assert [name for name, _ in groupby(calls[:loading])] == names
    rounds, position, orders = [BLOCK] * 4 + [2], loading, []
    for block in rounds:
        turns = calls[position : position + len(names) * (block + 1)]
        assert all(len(set(turns[i : i + block + 1])) == 1 for i in range(0, len(turns), block + 1))
        orders.append(tuple(turns[:: block + 1]))
        position += len(turns)
    assert position == len(calls)
    assert all(sorted(order) == names for order in orders)
    assert len(set(orders)) > 1
    assert all(len(row(outcome, name, "latency").repeats) == plan.repeats for name in names)


def test_each_model_has_a_fresh_process_of_its_own(store, command, tmp_path):
    log = tmp_path / "log"
    measure(store, [entry("a", log=str(log)), entry("b", log=str(log))], Plan(repeats=3, warmup=0), command=command)
    owners = {tuple(line.split()[:2]) for line in log.read_text().splitlines()}
    assert len(owners) == 2
    assert str(os.getpid()) not in {pid for _, pid in owners}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"exits": 9}, "ended with exit code 7 at 'run': Fatal: out of luck"),
        ({"killed": 2}, "SIGKILL"),
        ({"raises": 9}, "ValueError: a tensor of the wrong shape"),
        ({"refuse": "weights do not fit"}, "weights do not fit; give another"),
    ],
)
def test_a_failing_worker_does_not_take_the_others_along(store, command, fault, words, caplog):
    entries = [entry("good"), entry("bad", **fault), entry("fine")]
    outcome = measure(store, entries, Plan(repeats=7, warmup=2), command=command)
    assert {r.artifact for r in outcome.rows if r.quantity == "latency"} == {"id-good", "id-fine"}
    assert [r.quantity for r in outcome.rows if r.artifact == "id-bad"] == ["failed"]
    assert words in row(outcome, "bad", "failed").details["reason"]
    assert all(len(row(outcome, name, "latency").repeats) == 7 for name in ("good", "fine"))
    [(key, why)] = outcome.failed.items()
    assert key == "id-bad fake"
    assert words in why
    assert "\n" not in why
    assert store.rows() == outcome.rows


def test_rows_come_back_from_the_store_with_everything_raw(store, command):
    outcome = measure(store, [entry("a")], Plan(repeats=6, warmup=1, threads=1, batch=3), command=command)
    assert store.rows() == outcome.rows
    units = {r.quantity: (r.unit, r.better) for r in outcome.rows}
    assert units == {  # percentiles are derived where they are shown
        "size": ("B", "lower"), "parameters": ("1", "lower"), "macs": ("1", "lower"), "load": ("s", "lower"),
        "first": ("s", "lower"), "latency": ("s", "lower"), "throughput": ("1/s", "higher"),
        "peak_memory": ("B", "lower"),
    }  # fmt: skip
    assert {r.run for r in outcome.rows} == {outcome.run}
    assert all(r.machine == this_machine(1) for r in outcome.rows)
    latency = row(outcome, "a", "latency")
    assert latency.value == np.median(latency.repeats)
    assert row(outcome, "a", "throughput").value == pytest.approx(3 / np.mean(latency.repeats))
    details = latency.details
    assert (details["batch"], details["threads"], details["size"], details["runtime"]) == (
        3, 1, 32, {"runtime": "fake", "threads": 1},
    )  # fmt: skip


def test_a_batch_is_as_many_pictures(store, command, tmp_path):
    log = tmp_path / "log"
    measure(store, [entry("a", log=str(log))], Plan(repeats=1, warmup=0, batch=4), command=command)
    assert {line.split(" ", 2)[2] for line in log.read_text().splitlines()} == {"(4, 3, 32, 32)"}


def test_what_a_library_prints_does_not_garble_the_answers(store, command):
    outcome = measure(store, [entry("loud", noisy=True)], Plan(repeats=3, warmup=1), command=command)
    assert outcome.failed == {}
    assert len(row(outcome, "loud", "latency").repeats) == 3
    assert max(row(outcome, "loud", "latency").repeats) < 1


def test_a_model_that_takes_20_ms_measures_at_least_that(store, command):
    outcome = measure(store, [entry("slow", sleep=0.02), entry("quick")], Plan(repeats=6), command=command)
    slow, quick = (row(outcome, name, "latency") for name in ("slow", "quick"))
    assert min(slow.repeats) >= 0.02
    assert slow.value < 0.2
    assert quick.value < 0.01
    assert row(outcome, "slow", "first").value >= 0.02
    assert row(outcome, "slow", "throughput").value <= 50


def test_a_bigger_model_takes_more_memory_and_a_big_parent_does_not_show(store, command):
    ballast = np.ones(400 * MB, np.uint8)
    entries = [entry("small", hold=20 * MB), entry("big", hold=120 * MB)]
    outcome = measure(store, entries, Plan(repeats=1, warmup=0), command=command)
    small, big = (row(outcome, name, "peak_memory") for name in ("small", "big"))
    assert big.value - small.value == pytest.approx(100 * MB, rel=0.1)
    assert big.value < ballast.nbytes
    for found, held in ((small, 20 * MB), (big, 120 * MB)):
        assert found.value - found.details["before"] == pytest.approx(held, abs=5 * MB)


def test_the_finished_is_kept_when_interrupted(store, command, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "_score", interrupt)
    plan = Plan(repeats=2, warmup=0, scoring=Scoring(("builtin",), "test", None, 1, {}))
    with pytest.raises(KeyboardInterrupt):
        measure(store, [entry("a"), entry("b")], plan, command=command)
    assert Counter(r.quantity for r in store.rows())["latency"] == 2


def test_an_interrupt_in_mid_round_keeps_no_half_a_latency(store, command, monkeypatch):
    turns = iter([[0.1], [0.1], [0.1], [0.1], [0.1] * 5])

    def run(*_):
        found = next(turns, None)
        if found is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(harness, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        measure(store, [entry("a"), entry("b")], Plan(repeats=5, warmup=1), command=command)
    assert {r.quantity for r in store.rows()} == {"size", "parameters", "macs", "load", "first"}


def test_a_worker_ends_in_order_when_its_parent_lets_go(command, tmp_path, store):
    closed = tmp_path / "closed"
    measure(store, [entry("a", closed=str(closed))], Plan(repeats=1, warmup=0), command=command)
    assert closed.exists()


def test_no_process_is_left_behind(store, command, tmp_path):
    log = tmp_path / "log"
    entries = [entry("a", log=str(log)), entry("b", log=str(log), killed=4)]
    measure(store, entries, Plan(repeats=2, warmup=1), command=command)
    for line in log.read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)


def test_a_worker_that_hangs_at_the_end_is_killed_with_its_children(monkeypatch):
    monkeypatch.setattr("benchmarks.process._PATIENCE", 0.3)
    script = (
        "import json, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "sys.stdin.readline(); print(json.dumps({'child': child.pid}), flush=True); time.sleep(60)"
    )
    process = Process((sys.executable, "-c", script))
    child = process.ask("anything")["child"]
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.id, 0)
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_asking_the_dead_is_an_error_with_a_next_step():
    process = Process((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(WorkerError, match=r"SIGKILL.*memory"):
        process.ask("load")
    process.close()


def test_a_metric_the_task_does_not_name_is_a_count():
    from benchmarks.rows import Scored

    measured = Measured(entry("a"), scored=Scored({"loss": 0.5, "images": 2.0}, (0.4, 0.6), "d", "test", ("builtin",)))
    setting = Setting("r", this_machine(), 1, BLOCK, 1)
    loss, images = rows_of(measured, setting, {"loss": ("1", "lower")})
    assert (loss.unit, loss.better, loss.repeats) == ("1", "lower", (0.4, 0.6))
    assert (images.unit, images.better, images.repeats) == ("count", "none", ())
    assert loss.details["data"] == "d"
    assert loss.details["split"] == "test"


def test_limited_spreads_over_the_whole_set():
    from compress.tasks import TASKS

    data = TASKS.get("saliency").open(["builtin"], "test")
    few = spread(data, 4)
    assert len(few) == 4
    assert few.names[0] == data.names[0]
    assert data.names.index(few.names[-1]) >= len(data) // 2
    assert spread(data, None) is data
    assert spread(data, len(data) + 1) is data


def test_the_order_follows_from_the_seed(store, command, tmp_path):
    def order(seed, log):
        entries = [entry(name, log=str(log)) for name in "abcd"]
        measure(store, entries, Plan(repeats=4 * BLOCK, warmup=0, seed=seed), command=command)
        return [line.split()[0] for line in log.read_text().splitlines()]

    once, again, other = (order(seed, tmp_path / f"log{i}") for i, seed in enumerate((5, 5, 6)))
    assert once == again
    assert once != other
