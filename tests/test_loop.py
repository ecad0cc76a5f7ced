import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from compress.core.errors import ArtifactError, DivergedError
from compress.kit.loop import CHECKPOINT, Loop, Player, Schedule, make_fabric


def batches(start, stop, poison=None):
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        image = torch.randn(4, 3, 8, 8, generator=generator)
        yield {"image": image * (math.inf if step == poison else 1.0), "target": image.mean(1, keepdim=True)}


def make_loop(folder, *, ema=0.0, every=2, steps=8):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    fabric = make_fabric(device="cpu", devices=1, precision="32")
    player = Player(module, optimizer, lambda batch: {}, Schedule(steps, 1e-2))
    loop = Loop({"network": player}, fabric, folder, every, ema)
    player.loss = lambda batch: {"loss": (loop.forward("network", batch["image"]) - batch["target"]).square().mean()}
    return loop


def run(loop, stop, poison=None):
    loop.run(batches(loop.step, stop, poison), lambda note: None, lambda step, losses: None)
    return {key: value.clone() for key, value in loop.result.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resumed_run_ends_in_the_same_weights_bit_for_bit(tmp_path, ema):
    unbroken = run(make_loop(tmp_path / "a", ema=ema), 8)
    run(make_loop(tmp_path / "b", ema=ema), 5)  # stopped after the checkpoint of step 4
    second = make_loop(tmp_path / "b", ema=ema)
    assert second.resume()
    assert second.step == 4
    assert same(run(second, 8), unbroken)
    assert [entry["step"] for entry in second.history] == list(range(1, 9))


def test_loop_learns(tmp_path):
    loop = make_loop(None, steps=60)
    run(loop, 60)
    losses = [entry["loss"] for entry in loop.history]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    assert not make_loop(tmp_path).resume()


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    loop = make_loop(tmp_path)
    with pytest.raises(DivergedError, match=r"diverged at step 6: loss = .*checkpoint of step 4 is kept.*lower --lr"):
        run(loop, 8, poison=5)
    again = make_loop(tmp_path)
    assert again.resume()
    assert again.step == 4
    assert all(torch.isfinite(value).all() for value in again.result.state_dict().values())


def test_damaged_checkpoint_is_an_error_not_a_silent_restart(tmp_path):
    run(make_loop(tmp_path), 2)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="can't be read"):
        make_loop(tmp_path).resume()


def test_checkpoint_survives_a_kill_in_the_middle_of_writing(tmp_path):
    run(make_loop(tmp_path), 4)
    before = (tmp_path / CHECKPOINT).read_bytes()
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from compress.core.whole import written_whole
        with written_whole(Path({str(tmp_path / CHECKPOINT)!r})) as path:
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert subprocess.run([sys.executable, "-c", script], env=os.environ).returncode == -signal.SIGKILL
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_ema_follows_the_weights(tmp_path):
    loop = make_loop(None, ema=0.5)
    run(loop, 8)
    raw = loop.players["network"].module.state_dict()
    mean = loop.result.state_dict()
    assert not torch.equal(raw["0.weight"], mean["0.weight"])
    assert torch.allclose(raw["0.weight"], mean["0.weight"], atol=0.05)


def test_step_schedule_is_the_thesis_one():
    rates = [Schedule(300, 1e-4, "step").at(step) for step in (0, 99, 100, 299)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


def test_cosine_schedule_warms_up_then_decays():
    schedule = Schedule(100, 1.0)
    rates = [schedule.at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(1.0)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02
