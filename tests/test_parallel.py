"""Two processes on one CPU must train the network that one process trains on the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.core.store import HISTORY, Store
from compress.kit.parallel import SyncBatchNorm2d, synchronise


def train(root, *extra):
    line = [sys.executable, "-m", "compress", "train", "--teacher", "u2netp"]
    line += ["--size", "64", "--batch", "4", "--steps", "3", "--precision", "32", "--device", "cpu", "--lr", "1e-4"]
    line += ["--workers", "0", "--store", str(root), "--quiet", *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    store = Store(root)
    (artifact,) = store.artifacts()
    return [entry["loss"] for entry in json.loads((store.folder(artifact) / HISTORY).read_text())["steps"]]


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one(tmp_path):
    one = train(tmp_path / "one")
    two = train(tmp_path / "two", "--devices", "2")
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    # later steps drift: Adam divides float32 noise in gradients that should be zero by itself
    assert two == pytest.approx(one, rel=0.03)


def test_gradients_of_two_processes_are_those_of_one():
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += [str(Path(__file__).with_name("ddp_worker.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 2
    assert max(differences) < 1e-9


def test_statistics_over_ranks_are_those_of_the_whole_batch(monkeypatch):
    torch.manual_seed(0)
    batch = torch.randn(6, 3, 5, 4)
    reference = nn.BatchNorm2d(3)
    expected = reference(batch)
    synced = synchronise(nn.Sequential(nn.BatchNorm2d(3)))
    assert isinstance(synced[0], SyncBatchNorm2d)
    mean = batch.mean((0, 2, 3))
    sums = iter([2 * mean, 2 * (batch - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))])  # of two equal ranks
    monkeypatch.setattr("compress.kit.parallel.all_reduce", lambda local: next(sums))
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert torch.allclose(synced(batch[:3]), expected[:3], atol=1e-6)
    assert torch.allclose(synced[0].running_mean, reference.running_mean, atol=1e-6)
    assert torch.allclose(synced[0].running_var, reference.running_var, atol=1e-6)
    assert synced.state_dict().keys() == nn.Sequential(reference).state_dict().keys()


@pytest.mark.slow
def test_torchrun_on_two_hosts_trains_as_one_process_does(tmp_path):
    one = train(tmp_path / "one")
    hosts = [launch_host(tmp_path / "two", rank) for rank in (0, 1)]
    for host in hosts:
        _, err = host.communicate(timeout=200)
        assert host.returncode == 0, err
    store = Store(tmp_path / "two")
    (artifact,) = store.artifacts()
    losses = [entry["loss"] for entry in json.loads((store.folder(artifact) / HISTORY).read_text())["steps"]]
    assert losses == pytest.approx(one, rel=0.03)
    assert losses[0] == pytest.approx(one[0], rel=1e-5)


def launch_host(root, rank):
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
    line += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", "29611", "-m", "compress"]
    line += ["train", "--teacher", "u2netp", "--size", "64", "--batch", "4", "--steps", "3", "--precision", "32"]
    line += ["--device", "cpu", "--lr", "1e-4", "--workers", "0", "--store", str(root), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
