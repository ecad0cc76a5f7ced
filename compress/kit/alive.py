"""Whether a branch of a network is alive: its tensors shuffled between the images of a batch, and what varies in them.

Permutation importance (Breiman 2001, "Random forests", section 10; Fisher et al. 2019, "All models are wrong, but many
are useful") of an inner tensor: what a network does without is none of its loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.core.errors import UsageError, did_you_mean

CONSTANT = 1e-5  # deviation over images, as a share of the values' size, that rounding in float32 stays below


class Shuffled:
    """While it is open, a branch gets the previous image's tensors instead of its own, the first the last one's.

    A branch is "path", all that the sub-module returns, or "path:1", its second positional argument. Afterwards
    ``spread`` tells how far its values vary between the images.

    Raises:
        UsageError: If the network has no such part, or it is not called with so many arguments.
    """

    def __init__(self, module: nn.Module, branch: str) -> None:
        path, colon, number = branch.partition(":")
        parts = dict(module.named_modules(remove_duplicate=False))
        if not path or path not in parts or (colon and not number.isdigit()):
            raise UsageError(
                f"{type(module).__name__} has no branch '{branch}'{did_you_mean(path, parts)}",
                hint="wanted the path of a part, or path:1 for its second argument",
            )
        self.branch, self._part, self._argument = branch, parts[path], int(number) if colon else None
        self._moved = self._power = 0.0
        self._handle: Any = None

    @property
    def spread(self) -> float:
        """Deviation over images as a share of the values' root mean square; 0 where all are 0 or none ever came.

        From neighbours: half the mean square of the difference of independent values is their variance.
        """
        return float(np.sqrt(self._moved / (2 * self._power))) if self._power else 0.0

    def __enter__(self) -> Shuffled:
        if self._argument is None:
            self._handle = self._part.register_forward_hook(self._on_output)
        else:
            self._handle = self._part.register_forward_pre_hook(self._on_input)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _on_output(self, _part: nn.Module, _inputs: Any, output: Any) -> Any:
        return self._roll(output)

    def _on_input(self, _part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        k = self._argument
        assert k is not None
        if k >= len(inputs):
            raise UsageError(f"'{self.branch}': the part is called with {len(inputs)} arguments", hint="count from 0")
        return (*inputs[:k], self._roll(inputs[k]), *inputs[k + 1 :])

    def _roll(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self._roll(entry) for entry in value)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        rolled = value.roll(1, dims=0)
        self._moved += float((value - rolled).double().square().sum())
        self._power += float(value.double().square().sum())
        return rolled


def forward(module: nn.Module, image: Tensor) -> Tensor:
    """Run a network without gradients and return the output that ships. image: (N, C, H, W)."""
    with torch.inference_mode():
        shipped: Tensor = module(image)[0]
    return shipped
