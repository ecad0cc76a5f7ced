"""Cross-layer equalization: channels scaled in one layer and back in the next, the same function on evener grids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.kit.quant.rewrite import with_inputs
from compress.kit.quant.scalable import Atoms, Channels, Layer, weight_axes

Floats = NDArray[np.float64]
Ranges = Mapping[str, NDArray[np.float32]]
_ROUNDS = 100
_STEP = 0.5  # of the way in each round: neighbours move at the same time
_STILL = 1e-3  # of a factor of two
_LARGEST = 10.0  # a channel is scaled by at most 2 to this power


@dataclass(frozen=True)
class EqualizeReport:
    """What an equalization did.

    ``even`` is how much of its grid a channel uses, in 0..1, before and after: its largest value over that of the map,
    the mean over channels and maps; without ranges that of rows and columns of weights over that of the layer.
    ``scales`` says by what (C,) each map's channels were divided; only maps that changed are named.
    """

    channels: int  # that could be scaled, those that go together counted once
    rounds: int
    even_before: float
    even_after: float
    layers: tuple[str, ...] = ()  # nodes with new weights
    scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def equalize(
    model: onnx.ModelProto, ranges: Ranges | None = None, *, balance: float = 0.5
) -> tuple[onnx.ModelProto, EqualizeReport]:
    """Return a graph of the same function whose channels are more alike in range.

    A map's channel may be divided by any positive number where whoever reads it multiplies its weights by it: through
    ReLUs, pooling, resizing, sums and concatenations, all of whose channels share one number. Channels that reach a
    sigmoid, a norm's input, a Clip or an output stay as they are.

    Without ``ranges`` rows and columns of the weights are made even (Nagel et al. 2019, "Data-Free Quantization Through
    Weight Equalization and Bias Correction", section 4.1): for weights stored with one scale per tensor. With them,
    maps are made even at the cost of weights that are rounded per output channel (Xiao et al. 2023, "SmoothQuant",
    section 4): each channel's share of its maps' grids against its share of its readers' rows.

    Args:
        model: A prepared float32 graph, see ``prepare_graph``.
        ranges: Largest magnitude (C,) of each channel, of the maps that will be rounded, by name.
        balance: How much of the unevenness the weights take, 0..1: SmoothQuant's alpha. 0.5 shares it.
    """
    channels = Channels(model)
    layers = [_Weights(layer, channels) for layer in channels.layers]
    maps = {
        name: np.abs(value).astype(np.float64) for name, value in (ranges or {}).items() if name in channels.numbers
    }
    problem = _Problem(channels, layers, maps, balance) if ranges is not None else _WeightsAlone(channels, layers)
    exponents = np.zeros(channels.count)
    before = problem.evenness(exponents)
    for rounds in range(1, _ROUNDS + 1):  # noqa: B007 the number is told
        step = _STEP * problem.step(exponents)
        moved = np.clip(exponents + step, -_LARGEST, _LARGEST)
        still = np.abs(moved - exponents).max(initial=0) < _STILL
        exponents = moved
        if still:
            break
    changed = _changes(layers, exponents)
    scales = {name: _factors(numbers, exponents).astype(np.float32) for name, numbers in channels.numbers.items()}
    report = EqualizeReport(
        channels.count, rounds, before, problem.evenness(exponents),
        tuple(dict.fromkeys(name for name, _ in changed)),
        {name: scale for name, scale in scales.items() if (scale != 1).any()},
    )  # fmt: skip
    return with_inputs(model, changed, "even"), report


class _Weights:
    """One layer's weights as largest magnitudes by output and input channel, over the taps."""

    def __init__(self, layer: Layer, channels: Channels) -> None:
        self.layer, self.node = layer, layer.node
        stored = channels.stored(self.node.input[1])
        assert stored is not None
        self.weight = stored
        self.bias = channels.stored(self.node.input[2]) if len(self.node.input) > 2 and self.node.input[2] else None
        if layer.read is not None:
            view, _ = weight_axes(self.node, stored)
            self.largest = np.abs(view).max(3).astype(np.float64)  # (groups, O, I)
            self.written = layer.written.reshape(len(view), -1)
            self.read = layer.read.reshape(len(view), -1)

    def magnitudes(self, exponents: Floats) -> Floats:
        """Largest magnitudes (groups, O, I) once scaled."""
        columns = _factors(self.read, exponents)[:, None, :]
        return np.asarray(self.largest * columns / _factors(self.written, exponents)[:, :, None])

    def rescaled(self, exponents: Floats) -> Floats:
        """The weights that do the same to scaled maps."""
        if self.layer.read is None:
            return np.asarray(self.weight / _factors(self.layer.written, exponents))
        view, order = weight_axes(self.node, self.weight)
        columns = _factors(self.read, exponents)[:, None, :, None]
        scaled = view * columns / _factors(self.written, exponents)[:, :, None, None]
        return np.asarray(scaled.transpose(np.argsort(order)).reshape(self.weight.shape))


@dataclass(frozen=True)
class _Problem:
    """Maps on one grid each, weights rounded by row."""

    channels: Channels
    layers: list[_Weights]
    maps: Mapping[str, Floats]
    balance: float

    def step(self, exponents: Floats) -> Floats:
        """How far each channel's scale, as a power of two, is from where shares of map and weights are balanced."""
        maps, weights = _Shares(self.channels.count), _Shares(self.channels.count)
        for numbers, value in self._now(exponents):
            maps.see(numbers, _share(value))
        for layer in self.layers:
            if layer.layer.read is not None:
                rows = layer.magnitudes(exponents)
                largest = rows.max(2, keepdims=True)
                weights.see(layer.read, (rows / np.where(largest > 0, largest, 1)).max(1))
        both = self.balance * maps.logarithms - (1 - self.balance) * weights.logarithms
        return np.where(maps.known & weights.known, 2 * both, 0.0)

    def evenness(self, exponents: Floats) -> float:
        """Mean share of its grid that a channel uses."""
        return _mean([_share(value).mean() for _, value in self._now(exponents) if value.size])

    def _now(self, exponents: Floats) -> Iterator[tuple[Atoms, Floats]]:
        for name, value in self.maps.items():
            numbers = self.channels.numbers[name]
            yield numbers, value / _factors(numbers, exponents)


@dataclass(frozen=True)
class _WeightsAlone:
    """Weights on one grid per layer."""

    channels: Channels
    layers: list[_Weights]

    def step(self, exponents: Floats) -> Floats:
        """How far each channel's scale, as a power of two, is from where row and column are balanced."""
        rows, columns = _Shares(self.channels.count), _Shares(self.channels.count)
        for layer in self.layers:
            if layer.layer.read is not None:
                now = layer.magnitudes(exponents)
                rows.see(layer.written, _share(now.max(2)))
                columns.see(layer.read, _share(now.max(1)))
        # a norm takes scales in for nothing: its channels have no row
        return np.where(columns.known, rows.logarithms - columns.logarithms, 0.0)

    def evenness(self, exponents: Floats) -> float:
        """Mean share of its layer's grid that a row or a column of weights uses."""
        now = [layer.magnitudes(exponents) for layer in self.layers if layer.layer.read is not None]
        return _mean([_share(each.max(axis)).mean() for each in now for axis in (1, 2)])


class _Shares:
    """The largest share each channel has anywhere, as a power of two; unknown where it is nowhere or zero."""

    def __init__(self, count: int) -> None:
        self._found = np.zeros(count)

    def see(self, numbers: Atoms, shares: Floats) -> None:
        """Count shares in, one for each of ``numbers``."""
        movable = (numbers >= 0).ravel()
        np.maximum.at(self._found, numbers.ravel()[movable], shares.ravel()[movable])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where there is a share."""
        return self._found > 0

    @property
    def logarithms(self) -> Floats:
        """The shares as powers of two."""
        return np.asarray(np.log2(np.where(self.known, self._found, 1.0)))


def _share(values: Floats) -> Floats:
    largest = values.max(initial=0)
    return values / largest if largest > 0 else values


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else 1.0


def _factors(numbers: Atoms, exponents: Floats) -> Floats:
    """What channels are divided by; those that stay, by 1."""
    padded = np.append(exponents, 0.0)  # number -1 is the last
    return np.asarray(np.exp2(padded[numbers]))


def _changes(layers: list[_Weights], exponents: Floats) -> dict[tuple[str, int], Floats]:
    """New weights and biases of the nodes that scales change, by node name and place of the input."""
    found: dict[tuple[str, int], Floats] = {}
    for layer in layers:
        written = _factors(layer.layer.written, exponents)
        read = np.ones(1) if layer.layer.read is None else _factors(layer.layer.read, exponents)
        if (written == 1).all() and (read == 1).all():
            continue
        found[layer.node.name, 1] = layer.rescaled(exponents)
        if layer.bias is not None:
            found[layer.node.name, 2] = (layer.bias.reshape(-1) / written).reshape(layer.bias.shape)
    return found
