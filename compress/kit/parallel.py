"""Batch norm over the whole global batch when training on several processes, on CPUs too.

torch's own SyncBatchNorm runs on cards only; without it, N processes would train another network than one does.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all processes' slices together; equal slices assumed."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise ``input`` (N, C, H, W) by mean and biased variance over the global N, H, W."""
        if not self.training:
            plain: torch.Tensor = super().forward(input)
            return plain
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        shape = (1, -1, 1, 1)
        mean = _over_ranks(x.mean((0, 2, 3)))
        centred = x - mean.view(shape)
        # in two passes: E[x^2] - E[x]^2 loses the digits that small maps need
        variance = _over_ranks(centred.square().mean((0, 2, 3)))
        self._track(mean.detach(), variance.detach(), input.numel() // input.shape[1] * dist.get_world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: torch.Tensor = centred * scale.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        # torch keeps the unbiased variance for evaluation
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


def _over_ranks(mean: torch.Tensor) -> torch.Tensor:
    """Mean over all processes of their means; gradients flow to all of them."""
    total: torch.Tensor = all_reduce(mean)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


def synchronise(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d by one over all processes; parameters, buffers and their names are kept."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, _converted(child))
        else:
            synchronise(child)
    return module


def _converted(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    new = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new.load_state_dict(norm.state_dict())
    weight = norm.weight
    return new.to(weight.device, weight.dtype)
