"""Looks at networks: parameters, MACs, taps, batch-norm folding, SQNR; reads and loads foreign weights safely."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from compress.core.errors import ArtifactError, UsageError, did_you_mean
from compress.kit.nets.blocks import ConvBnRelu


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into eval mode for good: no gradients, running statistics untouched."""
    return module.eval().requires_grad_(False)


def count_parameters(module: nn.Module) -> int:
    """Count the values of all parameters; one that is shared counts once, buffers don't count."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """Count the multiply-accumulates of one image (1, channels, *size), size = (height, width), in eval mode.

    Counted: convolutions, transposed convolutions, matrix products (linear layers) and attention. Not counted:
    biases, norms, activations, pooling, resizing, sums. Nothing is computed: it runs on shapes alone.
    """
    twin = _meta_twin(module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, channels, *size, device="meta"))
    return int(counter.get_total_flops()) // 2  # torch counts a multiply and an add apart


def _meta_twin(module: nn.Module) -> nn.Module:
    """Copy a module without its values, in eval mode, leaving the module itself alone."""
    tensors: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    tensors |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, tensors).eval()


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose batch norms are folded into the convolution before them.

    Found are convolution and norm side by side in ``ConvBnRelu`` and ``nn.Sequential``, then, where norms are left,
    in the traced graph of any other forward. A norm that no convolution feeds alone stays. The output in eval mode
    stays the same but for rounding; keys of folded norms are gone from the state.
    """
    folded = copy.deepcopy(module).eval()
    _fold(folded, _structural_pairs(folded))
    if any(isinstance(part, nn.BatchNorm2d) for part in folded.modules()):
        _fold(folded, _traced_pairs(folded))
    return folded


def _fold(module: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    places = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    for conv_path, norm_path in pairs:
        conv, norm = module.get_submodule(conv_path), module.get_submodule(norm_path)
        if _foldable(conv, norm) and places[id(conv)] == places[id(norm)] == 1:
            fused = fuse_conv_bn_eval(
                cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm), transpose=isinstance(conv, nn.ConvTranspose2d)
            )
            module.set_submodule(conv_path, fused)
            module.set_submodule(norm_path, nn.Identity())


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
        return False
    if type(conv) is nn.ConvTranspose2d:
        return conv.groups == 1 and not is_parametrized(conv)
    return type(conv) is nn.Conv2d and not is_parametrized(conv)


def _structural_pairs(module: nn.Module) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for path, part in module.named_modules():
        names: list[str] = []
        if isinstance(part, ConvBnRelu):
            names = ["conv_s1", "bn_s1"]
        elif type(part) is nn.Sequential:
            names = [name for name, _ in part.named_children()]
        paths = [f"{path}.{name}" if path else name for name in names]
        pairs += pairwise(paths)
    return pairs


def _traced_pairs(module: nn.Module) -> list[tuple[str, str]]:
    try:
        graph = fx.Tracer().trace(module)
    # a forward may defy tracing in any way; norms that are left then compute the same as before
    except Exception:
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op != "call_module" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        alone = source.op == "call_module" and len(source.users) == calls[source.target] == calls[node.target] == 1
        if alone:
            pairs.append((str(source.target), str(node.target)))
    return pairs


class Taps:
    """Collects what named sub-modules return while it is open.

    ``with Taps(network, ["stage6"]) as seen: network(image)`` leaves ``seen["stage6"]``, the output of its last
    call, attached to the autograd graph. The dictionary stays filled after the block.

    Raises:
        UsageError: If the module has no sub-module of that path.
    """

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        self._parts = {path: _find_part(module, path) for path in paths}
        self._outputs: dict[str, Any] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> dict[str, Any]:
        self._handles = [part.register_forward_hook(self._keep(path)) for path, part in self._parts.items()]
        return self._outputs

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, path: str) -> Any:
        def keep(_part: nn.Module, _inputs: Any, output: Any) -> None:
            self._outputs[path] = output

        return keep


def _find_part(module: nn.Module, path: str) -> nn.Module:
    parts: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if path not in parts or not path:
        top = ", ".join(name for name, _ in module.named_children())
        raise UsageError(
            f"{type(module).__name__} has no part '{path}'{did_you_mean(path, parts)}",
            hint=f"its parts at the top: {top or 'none'}",
        )
    return parts[path]


def sqnr(reference: ArrayLike, other: ArrayLike) -> float:
    """Signal to quantization noise in dB: 10 log10(sum reference^2 / sum (reference - other)^2), over all values.

    reference, other: arrays of one shape. Equal arrays give inf, noise on an all-zero reference gives -inf.
    """
    signal, noisy = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    assert signal.shape == noisy.shape, (signal.shape, noisy.shape)
    power, noise = float(np.square(signal).sum()), float(np.square(signal - noisy).sum())
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(power / noise)) if power != 0.0 else float("-inf")


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a module, all or nothing, casting to its dtypes.

    Absent ``num_batches_tracked`` counters are forgiven: old checkpoints and converters drop them, and they start
    at zero.

    Raises:
        ArtifactError: If keys or shapes differ; the message lists every one of them.
    """
    wanted = module.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    differing = [key for key in wanted if key in state and wanted[key].shape != state[key].shape]
    problems = [
        _list_keys("missing", [key for key in wanted if key not in state and key not in counters]),
        _list_keys("unexpected", [key for key in state if key not in wanted]),
        _list_keys(
            "wrong shape", [f"{key} {_shape(state[key])}, wanted {_shape(wanted[key])}" for key in differing], "; "
        ),
    ]
    if any(problems):
        raise ArtifactError(
            f"the weights don't fit {type(module).__name__}: {' | '.join(filter(None, problems))}",
            hint="check the network's name and options",
        )
    module.load_state_dict({key: state.get(key, torch.zeros_like(wanted[key])) for key in wanted})


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _list_keys(problem: str, keys: list[str], separator: str = ", ") -> str:
    if not keys:
        return ""
    return f"{len(keys)} {problem}: {separator.join(keys)}"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read weights from a .safetensors, .pth or .pt file onto the CPU; code in the file never runs.

    A dictionary under "state_dict", "model" or "model_state_dict" is unwrapped; the prefixes that DataParallel and
    ``torch.compile`` put before every key are taken off.

    Raises:
        ArtifactError: If the file is absent, damaged, or anything but named tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise ArtifactError(f"no weights file '{file}'")
    if file.suffix not in (".safetensors", ".pth", ".pt"):
        raise ArtifactError(f"'{file.name}' is no weights file: wanted .safetensors, .pth or .pt")
    try:
        raw = _read_raw(file)
    # damaged or hostile bytes make the readers fail in any way they like
    except Exception as error:
        raise ArtifactError(
            f"'{file.name}' is damaged or holds more than named tensors ({type(error).__name__})",
            hint="fetch it again, or write the weights alone: torch.save(model.state_dict(), path)",
        ) from error
    return _plain_state(raw, file.name)


def _read_raw(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch muses about odd files on stderr before it refuses them
        return torch.load(file, map_location="cpu", weights_only=True)


def _plain_state(raw: Any, name: str) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    if not isinstance(raw, Mapping) or not raw:
        raise ArtifactError(f"'{name}' holds no weights: found {type(raw).__name__}, wanted a filled dictionary")
    odd = [str(key) for key, value in raw.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        raise ArtifactError(f"'{name}' holds more than weights: {_list_keys('entries that are no tensors', odd)}")
    return _without_prefixes(dict(raw))


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # a compiled module may be the outer or the inner one
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
