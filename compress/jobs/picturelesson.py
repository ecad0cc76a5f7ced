"""What a quantized network is taught: another network's pictures, and the labels where its raw output can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compress.kit.loop import Batch, Loop
from compress.kit.quant.torchgraph import TorchGraph
from compress.tasks.base import Task

OURS = "network"  # the loop's player
_ABOVE = 8  # nodes above the picture in which the raw output is looked for
_ALIKE = 1e-5
_QUICK = 30.0  # times the rate: what biases and the scales of norms move by


class _Rates(torch.optim.Adam):
    """Adam whose groups move by a multiple ("times") of the rate that the loop gives them all before each step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = group["lr"] * group["times"]
        return super().step(closure)


def rates(module: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Adam for a rounded network: vectors at 30 times the rate of weights.

    A bias can take off what rounding adds to a channel, and is stored in 32 bits; a weight that moves by less than its
    own step mostly flips roundings. One rate for both either left the biases where they were or shook the weights
    (docs/results.md).
    """
    parameters = list(module.parameters())
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "times": 1.0}, {"params": vectors, "times": _QUICK}]
    return _Rates([group for group in groups if group["params"]], lr=rate)


@dataclass(frozen=True)
class PictureLesson:
    """Mean |difference| of the shipped pictures, in their own range; of every network alike, generators of GANs too.

    Args:
        loop: Whose player ``OURS`` learns.
        teacher: Gives the pictures; frozen.
        task: Whose loss is added.
        labels: Its weight.
        names: Of the learner's tensors: the picture and, for labels, the raw output that the task's loss is about.
    """

    loop: Loop
    teacher: TorchGraph
    task: Task
    labels: float
    names: tuple[str, ...]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compare on one batch: "loss" is minimised, "picture" and "labels" are its parts."""
        image = batch["image"]
        with torch.no_grad():
            taught = self.teacher(image)
        names: Any = self.names
        found = self.loop.forward(OURS, image, names)
        apart = (found[0] - taught).abs().mean()
        if len(found) == 1:
            return {"loss": apart}
        hard = self.task.loss(found[1:], batch)["loss"]
        return {"loss": apart + self.labels * hard, "picture": apart.detach(), "labels": hard.detach()}


def raw_output(graph: TorchGraph, activate: Callable[[Tensor], Tensor], image: Tensor) -> str:
    """Name the tensor that a task's ``activate`` turns into the picture, "" where none of the last ones is it.

    Every network of ours ends on its task's ``activate``, and a task's loss is about what comes before.
    """
    producers = {output: node for node in graph.model.graph.node for output in node.output}
    names: list[str] = [graph.outputs[0]]
    while len(names) <= _ABOVE and (node := producers.get(names[-1])) is not None:
        source = _source(graph, node)
        if not source:
            break
        names.append(source)
    with torch.no_grad():
        found = graph.run({graph.input: image}, names)
        picture = found[names[0]]
        for name in names[1:]:
            if found[name].shape == picture.shape and (activate(found[name]) - picture).abs().max() <= _ALIKE:
                return name
    return ""


def _source(graph: TorchGraph, node: onnx.NodeProto) -> str:
    """The one tensor a node computes from, beside stored ones; "" where there are several."""
    computed = [name for name in node.input if name and not graph.is_stored(name)]
    return str(computed[0]) if len(computed) == 1 else ""
