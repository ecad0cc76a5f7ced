"""The Rand score: against a loop over pairs of pixels, against scikit-image, and what thinning forgives."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
import skimage.metrics

from compress.kit.measure.rand import THRESHOLDS, best_rand, cells, rand_curve, rand_score, thinned


def by_pairs(found, truth):
    """Every ordered pair of pixels inside true cells, a pixel with itself included."""
    inside = [(y, x) for y, x in np.ndindex(truth.shape) if truth[y, x] > 0]
    # a pixel in no segment is one of its own
    segment = {place: int(found[place]) or ("alone", place) for place in inside}
    together = mine = theirs = 0
    for a, b in itertools.product(inside, inside):
        same, meant = segment[a] == segment[b], truth[a] == truth[b]
        together, mine, theirs = together + (same and meant), mine + same, theirs + meant
    precision, recall = together / mine, together / theirs
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_f_score_over_pairs_of_pixels(seed):
    random = np.random.default_rng(seed)
    truth, found = random.integers(0, 4, (2, 6, 7))
    assert rand_score(found, truth) == pytest.approx(by_pairs(found, truth), abs=1e-12)


def test_it_is_scikit_image_s_adapted_rand_error_where_the_two_mean_the_same():
    # no pixel without a segment, and so many pixels that a pair of one with itself does not count
    random = np.random.default_rng(1)
    truth = np.kron(random.integers(0, 5, (8, 8)), np.ones((40, 40), int))
    found = np.kron(random.integers(1, 6, (16, 16)), np.ones((20, 20), int))
    error, _, _ = skimage.metrics.adapted_rand_error(truth, found)
    assert rand_score(found, truth) == pytest.approx(1 - error, abs=1e-4)


def test_cells_touch_at_sides_and_not_at_corners():
    mask = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], bool)
    assert cells(mask).max() == 3
    assert np.array_equal(cells(mask), skimage.measure.label(mask, connectivity=1))


def grid_of_cells(side=61, pitch=20, width=1):
    """Square cells between lines of an odd width, whose middles lie at multiples of the pitch."""
    away = np.minimum(np.arange(side) % pitch, -np.arange(side) % pitch)
    inside = away > width // 2
    return inside[:, None] & inside


def test_thinning_leaves_one_pixel_between_cells():
    thick = grid_of_cells(width=7)
    grown = thinned(thick)
    assert len(np.unique(grown)) == 10  # nine cells and the lines
    assert (grown == 0).mean() < 0.1 < (~thick).mean()
    assert np.array_equal(grown[thick], cells(thick)[thick])
    for number in range(1, 10):
        touching = scipy.ndimage.binary_dilation(grown == number) & (grown > 0)
        assert set(np.unique(grown[touching])) == {number}


def test_membranes_may_be_thicker_or_thinner_than_the_truth_s():
    truth = grid_of_cells(width=3)
    for width in (1, 3, 7):
        assert rand_curve(grid_of_cells(width=width).astype(float), truth).min() > 0.97
    assert rand_score(cells(grid_of_cells(width=7)), cells(truth)) < 0.9  # without thinning they may not


def test_a_hole_in_one_membrane_merges_two_cells():
    truth = grid_of_cells(width=3)
    merged = truth.copy()
    merged[8:11, 18:24] = True
    sizes = np.bincount(cells(truth)[truth])[1:].astype(float)
    score = rand_curve(merged.astype(float), truth)[0]
    joined = sizes.copy()
    joined[0], joined[1] = sizes[0] + sizes[1], 0
    assert score == pytest.approx(2 * (sizes**2).sum() / ((joined**2).sum() + (sizes**2).sum()), abs=0.01)
    assert score < 0.95


def test_the_perfect_mask_scores_one_and_blank_ones_as_one_cell():
    truth = grid_of_cells(width=3)
    assert rand_curve(truth.astype(float), truth).tolist() == [1.0] * 9
    everything_one = rand_score(np.ones_like(truth, int), cells(truth))
    for value in (0.0, 1.0):
        assert rand_curve(np.full(truth.shape, value), truth).tolist() == [everything_one] * 9
    assert everything_one < 0.3


def test_a_truth_without_cells_has_nothing_to_tell_apart():
    nothing = np.zeros((4, 4), bool)
    assert rand_curve(np.random.default_rng(0).random((4, 4)), nothing).tolist() == [1.0] * 9


def test_the_curve_cuts_above_each_threshold():
    truth = grid_of_cells(width=3)
    mask = np.where(truth, 0.65, 0.35)
    curve = rand_curve(mask, truth)
    right = [0.35 <= threshold < 0.65 for threshold in THRESHOLDS]
    assert [value == 1.0 for value in curve] == right


def test_a_set_s_score_is_the_best_of_the_mean_curve():
    assert best_rand([[0.2, 0.8, 0.4], [0.6, 0.2, 0.7]]) == pytest.approx(0.55)
