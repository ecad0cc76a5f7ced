"""CIE L*a*b* against scikit-image, lightness as networks are fed it, colourfulness against a plain loop."""

import warnings

import numpy as np
import pytest
import skimage.color
import torch

from compress.core.types import ImageSpec
from compress.kit import lab
from compress.kit.data.batches import normalize
from compress.kit.images import prepare

LIGHTNESS = ImageSpec(channels=1, color="lightness", mean=(0.5,), std=(0.5,), height=24, width=32)


def photo(height=24, width=32, seed=0):
    """Random colours, near black ones, the corners of the cube and greys."""
    random = np.random.default_rng(seed)
    made = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    made[1] = random.integers(0, 14, (width, 3))
    made[2] = np.arange(width)[:, None] * 8
    made[0, :8] = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    return made


def tensor(picture):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, -1, 0)))[None]


def array(batch):
    return np.moveaxis(batch[0].numpy(), 0, -1)


def test_lab_is_scikit_image_s():
    wanted = skimage.color.rgb2lab(photo())
    assert np.abs(lab.rgb_to_lab_array(photo()) - wanted).max() < 1e-3
    assert np.abs(lab.rgb_to_lab_array(photo() / 255.0) - wanted).max() < 1e-3
    assert np.abs(array(lab.rgb_to_lab(tensor(photo()).float() / 255)) - wanted).max() < 1e-3


def test_rgb_is_scikit_image_s_in_gamut_and_out_of_it():
    colours = np.random.default_rng(0).uniform([0, -128, -128], [100, 128, 128], (40, 50, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of colours below black
        wanted = skimage.color.lab2rgb(colours)
    assert np.abs(lab.lab_to_rgb_array(colours) - wanted).max() < 1e-4
    found = lab.lab_to_rgb(tensor(colours).float())
    assert np.abs(array(found) - wanted).max() < 1e-4
    assert found.min() == 0.0
    assert found.max() == 1.0


def test_there_and_back_is_the_picture():
    picture = tensor(photo()).double() / 255
    assert (lab.lab_to_rgb(lab.rgb_to_lab(picture)) - picture).abs().max() < 1e-6
    assert np.abs(lab.lab_to_rgb_array(lab.rgb_to_lab_array(photo())) - photo() / 255).max() < 1e-5


def test_every_colour_of_srgb_lies_within_the_scale():
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    colours = lab.rgb_to_lab_array(cube)
    assert np.abs(colours[..., 1:]).max() < lab.AB
    assert colours[..., 0].min() == pytest.approx(0.0, abs=1e-4)
    assert colours[..., 0].max() == pytest.approx(100.0, abs=1e-3)


def test_half_precision_around_it_changes_nothing():
    picture = tensor(photo()).float() / 255
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lab.rgb_to_lab(picture)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, lab.rgb_to_lab(picture))
    assert lab.rgb_to_lab(picture.bfloat16()).dtype == torch.float32


def test_black_has_a_gradient():
    for convert in (lab.rgb_to_lab, lab.lab_to_rgb):
        picture = torch.zeros(1, 3, 2, 2, requires_grad=True)
        convert(picture).sum().backward()
        assert torch.isfinite(picture.grad).all()


def test_lightness_is_l_laid_over_bytes():
    wanted = skimage.color.rgb2lab(photo())[..., 0] * 2.55
    found, batch = lab.lightness_array(photo()), lab.lightness_tensor(tensor(photo()))
    assert found.dtype == np.float32
    assert batch.dtype == torch.float32
    assert batch.shape == (1, 1, 24, 32)
    assert np.abs(found - wanted).max() < 1e-3
    assert np.abs(batch[0, 0].numpy() - found).max() < 1e-3


def test_networks_are_fed_lightness_over_50_less_1():
    wanted = skimage.color.rgb2lab(photo())[..., 0] / 50 - 1
    assert np.abs(prepare(photo(), LIGHTNESS)[0] - wanted).max() < 1e-4
    assert np.abs(normalize(tensor(photo()), LIGHTNESS)[0, 0].numpy() - wanted).max() < 1e-4


def test_colorfulness_is_the_paper_s():
    picture = photo(5, 8) / 255.0
    pixels = [tuple(float(v) for v in pixel) for row in picture * 255 for pixel in row]
    rg, yb = [r - g for r, g, _ in pixels], [(r + g) / 2 - b for r, g, b in pixels]

    def mean(values):
        return sum(values) / len(values)

    def variance(values):
        return mean([(v - mean(values)) ** 2 for v in values])

    wanted = (variance(rg) + variance(yb)) ** 0.5 + 0.3 * (mean(rg) ** 2 + mean(yb) ** 2) ** 0.5
    assert lab.colorfulness(picture) == pytest.approx(wanted, rel=1e-9)


def test_grey_has_no_colorfulness():
    assert lab.colorfulness(np.repeat(photo()[..., :1], 3, axis=-1) / 255.0) == 0.0
