"""Metrics against slow loops and py_sod_metrics' own accumulation."""

import dataclasses
import math

import numpy as np
import py_sod_metrics
import pytest

from compress.kit.measure import metrics


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(11)
    return [disk(rng, 40 + 3 * i, 50) for i in range(6)]


def disk(rng, height, width):
    """A noisy prediction of a disk, on the grid of 8-bit files, and the disk."""
    y, x = np.mgrid[:height, :width]
    truth = (y - rng.integers(10, height - 10)) ** 2 + (x - rng.integers(10, width - 10)) ** 2 < rng.integers(60, 200)
    noisy = np.clip(0.6 * truth + rng.normal(0.2, 0.15, truth.shape), 0.0, 1.0)
    return np.rint(noisy * 255).astype(np.uint8), truth.astype(np.uint8) * 255


def stretched(prediction):
    """Use the whole range, so that py_sod_metrics' min-max normalisation changes nothing."""
    prediction = prediction.copy()
    prediction[0, 0], prediction[0, 1] = 0, 255
    return prediction


def theirs(measure, pairs):
    for prediction, truth in pairs:
        measure.step(prediction, truth)
    return measure.get_results()


def test_mean_absolute_error_by_loops(pairs):
    prediction, truth = pairs[0][0] / 255, pairs[0][1] / 255
    slow = sum(abs(a - b) for a, b in zip(prediction.ravel(), truth.ravel(), strict=True)) / truth.size
    assert metrics.mean_absolute_error(prediction, truth) == pytest.approx(slow)


def test_binary_cross_entropy_by_loops(pairs):
    prediction, truth = pairs[0][0] / 255, pairs[0][1] / 255
    total = 0.0
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        q = min(max(p, 1e-7), 1 - 1e-7)
        total -= t * math.log(q) + (1 - t) * math.log(1 - q)
    assert metrics.binary_cross_entropy(prediction, truth) == pytest.approx(total / truth.size)


def test_a_saturated_wrong_pixel_costs_a_bounded_amount():
    assert metrics.binary_cross_entropy(np.zeros((1, 1)), np.ones((1, 1))) == pytest.approx(-math.log(1e-7))


def test_float32_input_is_measured_in_float64():
    # 1e7 values of .1 in float32 would not sum to 1e6
    assert metrics.mean_absolute_error(np.full(1000, 0.1, np.float32), np.zeros(1000)) == pytest.approx(
        float(np.float32(0.1)), rel=1e-12
    )


def test_max_f_is_that_of_py_sod_metrics_over_the_data_set(pairs):
    data = [(stretched(p), t) for p, t in pairs]
    with pytest.warns(UserWarning, match="removed in the future"):
        reference = py_sod_metrics.Fmeasure(beta=0.3)
    expected = theirs(reference, data)["fm"]["curve"].max()
    curves = [metrics.f_curve(p / 255, t / 255) for p, t in data]
    assert metrics.max_f(curves) == pytest.approx(expected)
    assert metrics.max_f(curves) < np.mean([curve.max() for curve in curves])


def test_the_f_curve_by_loops(pairs):
    prediction, truth = pairs[1]
    curve = metrics.f_curve(prediction / 255, truth / 255)
    assert curve.shape == (256,)
    for index in (0, 100, 180, 255):
        chosen, wanted = prediction >= 255 - index, truth > 128
        hits = np.count_nonzero(chosen & wanted)
        precision, recall = hits / max(chosen.sum(), 1), hits / wanted.sum()
        slow = 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0
        assert curve[index] == pytest.approx(slow)


def test_s_measure_and_mae_are_those_of_py_sod_metrics(pairs):
    data = [(stretched(p), t) for p, t in pairs]
    ours = [(p / 255, t / 255) for p, t in data]
    s = np.mean([metrics.s_measure(p, t) for p, t in ours])
    assert s == pytest.approx(theirs(py_sod_metrics.Smeasure(), data)["sm"])
    mae = np.mean([metrics.mean_absolute_error(p, t) for p, t in ours])
    assert mae == pytest.approx(theirs(py_sod_metrics.MAE(), data)["mae"])


def test_soft_truths_are_cut_where_py_sod_metrics_cuts_them(pairs):
    rng = np.random.default_rng(5)
    prediction = stretched(pairs[0][0])
    truth = rng.choice([0, 127, 128, 129, 255], prediction.shape).astype(np.uint8)
    ours = metrics.s_measure(prediction / 255, truth / 255)
    assert ours == pytest.approx(theirs(py_sod_metrics.Smeasure(), [(prediction, truth)])["sm"], rel=1e-12)


def test_a_faint_mask_is_not_stretched_into_a_good_one(pairs):
    _, truth = pairs[0]
    faint = (truth // 255) * 3  # 3 of 255 where the object is
    assert theirs(py_sod_metrics.MAE(), [(faint, truth)])["mae"] == 0.0
    raw = metrics.mean_absolute_error(faint / 255, truth / 255)
    assert raw == pytest.approx(252 / 255 * (truth > 0).mean())
    assert metrics.is_flat(faint / 255)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_maps_are_flat(value):
    rng = np.random.default_rng(0)
    assert metrics.is_flat(np.full((64, 64), value))
    assert metrics.is_flat(np.clip(value + rng.normal(0, 0.002, (64, 64)), 0, 1))


def test_stuck_pixels_do_not_make_a_map_alive_but_small_objects_do():
    stuck = np.zeros((64, 64), np.float32)
    stuck[0, :2] = 1.0
    assert metrics.is_flat(stuck)
    small = np.zeros((64, 64), np.float32)
    small[30:35, 30:35] = 1.0  # 0.6 % of the picture
    assert not metrics.is_flat(small)
    assert not metrics.is_flat(1 - small)


def test_a_map_that_is_not_finite_is_flat():
    broken = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    assert not metrics.is_flat(broken)
    broken[3, 3] = np.nan
    assert metrics.is_flat(broken)


def test_shapes_must_agree():
    with pytest.raises(AssertionError, match="against target"):
        metrics.mean_absolute_error(np.zeros((2, 3)), np.zeros((3, 2)))


def test_a_metric_is_frozen():
    metric = metrics.Metric("mae", "1", "lower", "help")
    with pytest.raises(dataclasses.FrozenInstanceError):
        metric.name = "loss"
