"""kill -9 at any moment, then --resume: the same weights, bit for bit, as a run that was never broken."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from compress.core.store import Store

COMMON = ["--size", "32", "--batch", "4", "--precision", "32", "--workers", "0", "--checkpoint-every", "2", "--quiet"]


def command(root, *extra):
    line = [sys.executable, "-m", "compress", "train", "--teacher", "u2netp"]
    return [*line, "--steps", "12", "--store", str(root), *COMMON, *extra]


def finish(root, *extra):
    done = subprocess.run(command(root, *extra), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (artifact,) = Store(root).artifacts()
    return next(file.sha256 for file in artifact.files if file.path == "weights.safetensors")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("unbroken"))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_run_ends_in_the_same_weights(tmp_path, unbroken, seed):
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("runs/*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Store(tmp_path).artifacts() == []
    assert finish(tmp_path, "--resume") == unbroken
    assert not list(tmp_path.glob("runs/*"))


def test_interrupt_exits_130_and_keeps_the_checkpoint(tmp_path):
    line = [part if part != "12" else "5000" for part in command(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    assert list(tmp_path.glob("runs/*/checkpoint.pt"))


# at the weights or at the checkpoint, whichever comes first
@pytest.mark.parametrize("limit", [1_000_000, pytest.param(8_000_000, marks=pytest.mark.slow)])
def test_disk_that_takes_no_more_is_one_line_and_nothing_half_written(tmp_path, limit):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command(tmp_path), capture_output=True, text=True, preexec_fn=small_files, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("error: can't write under")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert Store(tmp_path).artifacts() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.parent.name != "logs"]
