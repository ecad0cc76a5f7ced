"""Two processes on one CPU must train the network that one process trains on the same global batch."""

import json
import os
import subprocess
import sys

import torch
from torch import nn

from compress.core.store import HISTORY, Store
from compress.kit.parallel import SyncBatchNorm2d, synchronise


def train(root, *extra):
    line = [sys.executable, "-m", "compress", "train", "--teacher", "u2netp"]
    line += ["--size", "64", "--batch", "4", "--steps", "3", "--precision", "32", "--device", "cpu", "--lr", "1e-4"]
    line += ["--workers", "0", "--store", str(root), "--quiet", *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    store = Store(root)
    (artifact,) = store.artifacts()
    return [entry["loss"] for entry in json.loads((store.folder(artifact) / HISTORY).read_text())]


def test_two_processes_have_the_loss_of_one(tmp_path):
    one = torch.tensor(train(tmp_path / "one"))
    two = torch.tensor(train(tmp_path / "two", "--devices", "2"))
    assert torch.allclose(one[:1], two[:1], rtol=1e-5)
    assert torch.allclose(one, two, rtol=2e-3)  # sums in another order, through Adam


def test_statistics_over_ranks_are_those_of_the_whole_batch(monkeypatch):
    torch.manual_seed(0)
    batch = torch.randn(6, 3, 5, 4)
    reference = nn.BatchNorm2d(3)
    expected = reference(batch)
    synced = synchronise(nn.Sequential(nn.BatchNorm2d(3)))
    assert isinstance(synced[0], SyncBatchNorm2d)
    halves = [torch.stack([h.mean((0, 2, 3)), h.square().mean((0, 2, 3))]) for h in batch.chunk(2)]
    monkeypatch.setattr("compress.kit.parallel.all_reduce", lambda moments: halves[0] + halves[1])
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert torch.allclose(synced(batch[:3]), expected[:3], atol=1e-6)
    assert torch.allclose(synced[0].running_mean, reference.running_mean, atol=1e-6)
    assert torch.allclose(synced[0].running_var, reference.running_var, atol=1e-6)
    assert synced.state_dict().keys() == nn.Sequential(reference).state_dict().keys()
