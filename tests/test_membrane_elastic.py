"""Bending: fields by their statistics, sampling against SciPy, samples alone and in a batch."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from compress.kit.data.elastic import GRID, bend, displacement


def picture(height=40, width=52, channels=3, seed=0):
    random = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(random.random((1, channels, height, width)), (0, 0, 2, 2))
    spread = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(np.rint(spread * 255).astype(np.uint8))


def by_scipy(picture, field, order):
    """Values at pixel + field, one channel after the other; "mirror" reflects about the outermost pixels' centres."""
    places = np.stack(np.mgrid[: field.shape[0], : field.shape[1]]) + np.moveaxis(field.astype(float), -1, 0)
    planes = [
        scipy.ndimage.map_coordinates(plane.astype(float), places, order=order, mode="mirror")
        for plane in picture[0].numpy()
    ]
    return np.stack(planes)[None]


def test_a_field_is_a_pure_function_of_its_arguments():
    first = displacement(7, 30, 40, 2.0)
    assert first.shape == (30, 40, 2)
    assert first.dtype == np.float32
    assert np.array_equal(first, displacement(7, 30, 40, 2.0))
    assert not np.array_equal(first, displacement(8, 30, 40, 2.0))
    assert displacement(2**64 - 1, 30, 40, 2.0).shape == (30, 40, 2)
    assert np.allclose(displacement(7, 30, 40, 4.0), 2 * first, atol=1e-5)


def test_the_grid_s_displacements_are_normal_with_the_deviation_asked_for():
    # the corners, the middles of the sides and the centre are the grid's own points
    at = np.ix_((0, 20, 40), (0, 10, 20))
    values = np.array([displacement(seed, 41, 21, 3.0)[at] for seed in range(200)]).ravel()
    assert values.size == 200 * GRID * GRID * 2
    assert values.mean() == pytest.approx(0, abs=0.15)
    assert values.std() == pytest.approx(3.0, rel=0.05)
    assert (np.abs(values) < 3.0).mean() == pytest.approx(0.683, abs=0.03)


def test_a_field_is_smooth_and_folds_nothing():
    for seed in range(50):
        field = displacement(seed, 64, 64, 0.02 * 64).astype(float)
        down, right = np.gradient(field[..., 0], axis=0), np.gradient(field[..., 1], axis=1)
        assert min(down.min(), right.min()) > -0.5  # -1 would put two pixels in one place
        assert np.abs(np.diff(field, 2, axis=0)).max() < 0.02


@pytest.mark.parametrize("size", [(40, 52), (33, 17), (1, 9), (9, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(("nearest", "order"), [(False, 1), (True, 0)], ids=["bilinear", "nearest"])
def test_sampling_is_scipy_s(size, nearest, order):
    source, field = picture(*size), displacement(3, *size, 4.0)
    found, wanted = bend(source, field, nearest=nearest).numpy(), by_scipy(source, field, order)
    assert found.dtype == np.uint8
    assert found.shape == tuple(source.shape)
    off = np.abs(found - wanted)
    if nearest:
        assert (off > 0).mean() < 0.002  # halfway between two pixels either is nearest
    else:
        assert off.max() <= 0.51  # rounded to whole numbers


def test_no_displacement_is_no_change():
    source = picture(511, 300)
    still = np.zeros((511, 300, 2), np.float32)
    assert torch.equal(bend(source, still), source)
    assert torch.equal(bend(source, still, nearest=True), source)


def test_a_shift_by_whole_pixels_fetches_from_down_and_right():
    source = picture()
    shift = np.broadcast_to(np.array([2.0, 5.0], np.float32), (40, 52, 2))
    assert torch.equal(bend(source, shift)[:, :, :-2, :-5], source[:, :, 2:, 5:])


def test_class_numbers_are_picked_and_never_mixed():
    source = picture() // 64 * 64
    assert set(bend(source, displacement(0, 40, 52, 3.0), nearest=True).unique().tolist()) <= {0, 64, 128, 192}


def test_a_picture_does_not_depend_on_its_batch_or_on_threads():
    many = torch.cat([picture(seed=seed) for seed in range(5)])
    field = displacement(1, 40, 52, 2.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([bend(many[i : i + 1], field) for i in range(5)])
        torch.set_num_threads(2)
        together = bend(many, field)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)
