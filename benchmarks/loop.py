"""How much of a bare torch loop's speed the training loop keeps: `python -m benchmarks.loop`.

Both train the same network on batches of the same kind, in turns of a few steps each, so that a slow minute of the
machine falls on both. The bare loop's batches lie ready in memory; ours are loaded, augmented, checked and recorded.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command lines do

import torch
from torch import nn

from compress.core.machine import this_machine
from compress.core.networks import find_network
from compress.jobs.fit import channels_last
from compress.kit.data.batches import Batches
from compress.kit.loop import Loop, Player, Schedule, best_precision, make_fabric
from compress.tasks import TASKS

NETWORK, SIZE, BATCH, TURN, ROUNDS = "u2net_small", 128, 8, 6, 8
Batch = dict[str, torch.Tensor]


def main() -> None:
    """Print samples per second of both loops and the ratio, with its spread over rounds."""
    task = TASKS.get("saliency")
    data = task.open(["builtin"], "train")
    epoch = len(data) // BATCH
    ours = iter(Batches(data, task.input, SIZE, batch=BATCH, stop=epoch + 2 + TURN * (ROUNDS + 1)))
    ready = list(islice(map(channels_last, ours), epoch))[:TURN]  # the first epoch fills the cache of decoded pictures
    loop, bare = _ours(), _bare()
    _time(loop, islice(ours, TURN))
    bare(ready)
    ratios, speeds = [], []
    for _ in range(ROUNDS):
        theirs = bare(ready)
        mine = _time(loop, islice(ours, TURN))
        ratios.append(theirs / mine)
        speeds.append(BATCH * TURN / mine)
    machine = this_machine()
    print(f"{NETWORK} {SIZE} px batch {BATCH}, {machine.cpu}, {machine.cores} cores")
    print(f"samples/s {statistics.median(speeds):.1f}")
    print(f"of a bare loop {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = find_network(NETWORK).build().to(memory_format=torch.channels_last)
    return module, torch.optim.Adam(module.parameters(), lr=1e-3)


def _fabric() -> Any:
    return make_fabric(device="cpu", devices=1, precision=best_precision("auto", "cpu"))


def _ours() -> Loop:
    module, optimizer = _network()
    task = TASKS.get("saliency")
    player = Player(module, optimizer, dict, Schedule(10_000, 1e-3))
    loop = Loop({"network": player}, _fabric())
    player.loss = lambda batch: task.loss(loop.forward("network", batch["image"]), batch)
    return loop


def _time(loop: Loop, batches: Iterator[Batch]) -> float:
    start = time.perf_counter()
    loop.run(map(channels_last, batches), _quiet, _forget)
    return time.perf_counter() - start


def _quiet(note: str = "") -> None:
    del note


def _forget(step: int, losses: dict[str, float]) -> None:
    del step, losses


def _bare() -> Callable[[list[Batch]], float]:
    module, optimizer = _network()
    bf16 = best_precision("auto", "cpu") == "bf16"
    task = TASKS.get("saliency")

    def run(batches: list[Batch]) -> float:
        start = time.perf_counter()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = module(batch["image"])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(task.loss(outputs, batch)["loss"])
            optimizer.step()
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
