"""One of two processes: prints how far its gradients are from those of one process on the whole batch (float64)."""

import copy
import os

import torch
import torch.distributed as dist

from compress.core.networks import find_network
from compress.kit.parallel import synchronise
from compress.tasks import TASKS

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
task = TASKS.get("saliency")
torch.manual_seed(0)
alone = find_network("u2netp").build(width=8).double()
shared = torch.nn.parallel.DistributedDataParallel(synchronise(copy.deepcopy(alone)))
image = torch.randn(4, 3, 64, 64, dtype=torch.float64)
target = (torch.rand(4, 1, 64, 64) > 0.5).double()

torch.autograd.backward(task.loss(alone(image), {"target": target})["loss"])
mine = slice(2 * rank, 2 * rank + 2)
torch.autograd.backward(task.loss(shared(image[mine]), {"target": target[mine]})["loss"])
pairs = zip(alone.parameters(), shared.module.parameters(), strict=True)
furthest = max(float((a.grad - b.grad).abs().max()) for a, b in pairs)
os.write(1, f"{furthest}\n".encode())  # at once: the other process writes to the same pipe
dist.destroy_process_group()
