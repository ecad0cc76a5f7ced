"""What a report derives: Pareto fronts, intervals, the newest rows."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from report_store import losses_around, row, two

from compress.core.store import Store
from compress.kit.intervals import paired_difference, relative_change, speedup
from reports.frame import newest, pareto, tidy, wide


def test_pareto_front_agrees_with_brute_force() -> None:
    random = np.random.default_rng(3)
    for _ in range(40):
        frame = pd.DataFrame(random.integers(0, 8, (12, 2)).astype(float), columns=["x", "y"])
        frame.loc[0, "y"] = np.nan
        points = frame.dropna().to_numpy()
        kept = [p for p in points if not any((q <= p).all() and (q < p).any() for q in points)]
        assert sorted(map(tuple, pareto(frame, "x", "y").to_numpy())) == sorted(map(tuple, kept))
    assert pareto(frame, "x", "absent").empty


def test_paired_interval_narrows_by_pairing_and_covers_the_truth() -> None:
    teacher, model = losses_around(0.31, 1), losses_around(0.31, 2) * 1.1
    paired = relative_change(teacher, model)
    assert paired.low < 0.1 < paired.high
    assert paired.value == pytest.approx(0.1)
    shuffled = relative_change(teacher, np.random.default_rng(0).permutation(model))
    assert shuffled.value == pytest.approx(paired.value)
    assert shuffled.high - shuffled.low > 3 * (paired.high - paired.low)
    same = relative_change(teacher, teacher)
    assert (same.low, same.value, same.high) == pytest.approx((0, 0, 0))


def test_paired_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(11), 0
    for _ in range(60):
        teacher = random.gamma(4.0, 0.1, 60)
        found = relative_change(teacher, teacher * (1.05 + 0.1 * random.standard_normal(60)))
        held += found.low <= 0.05 <= found.high
    assert held >= 51  # of 60; a 95 % interval holds 51 or more all but one time in 2000


def test_few_images_or_repeats_give_no_interval() -> None:
    assert relative_change([1.0] * 9, [2.0] * 9).low is None
    assert speedup([2.0] * 4, [1.0] * 4).low is None
    assert speedup([2.0] * 4, [1.0] * 4).value == 2.0
    exact = speedup([2.0] * 5, [1.0] * 5)
    assert (exact.low, exact.high) == (2.0, 2.0)


def test_newest_row_wins_and_wide_prefers_the_first_target(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    rows = [row(model, "size", 1, unit="B"), row(model, "size", 2, unit="B"), row(model, "size", 3, target="torch"),
            row(model, "latency", 5, unit="s"), row(teacher, "size", 9, target="torch")]  # fmt: skip
    frame = tidy([teacher, model], rows)
    assert list(newest(frame)["value"]) == [2, 3, 5, 9]
    table = wide(frame, ["cpu", "torch"])
    assert table.loc[model.id, "size"] == 2
    assert table.loc[model.id, "latency@cpu"] == 5
    assert table.loc[teacher.id, "size"] == 9


def test_a_difference_of_pairs_has_the_interval_that_scipy_finds() -> None:
    random = np.random.default_rng(5)
    one = random.gamma(4.0, 0.1, 80)
    other = one + 0.02 + 0.05 * random.standard_normal(80)
    found = paired_difference(other, one)
    assert found.value == pytest.approx((other - one).mean())
    theirs = scipy.stats.bootstrap((other - one,), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=1e-3)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=1e-3)
    assert paired_difference([1.0] * 9, [2.0] * 9).low is None
