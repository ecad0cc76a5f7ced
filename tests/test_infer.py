"""One photo through a network of another size: stretched, letterboxed, native, in tiles."""

import numpy as np
import PIL.Image
import pytest

from compress.core.types import ImageSpec
from compress.kit.images import prepare
from compress.kit.infer import at_size, predict

PLAIN = ImageSpec(height=32, width=32)


class Network:
    """Doubles its image and remembers what it saw."""

    def __init__(self, change=lambda image: 2 * image):
        self.seen = []
        self.change = change

    def __call__(self, image):
        self.seen.append(image.shape)
        return self.change(image)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(fit, **more):
    return ImageSpec(**{"height": 32, "width": 32, "fit": fit, **more})


def test_stretched_photos_are_the_specs_size_whatever_their_own():
    net = Network()
    result = predict(net, spec("stretch"), photo(45, 70))
    assert net.seen == [(1, 3, 32, 32)]
    np.testing.assert_array_equal(result, 2 * prepare(photo(45, 70), PLAIN))


@pytest.mark.parametrize("size", [(1, 1), (45, 70), (1, 50)])
def test_native_photos_keep_their_size_and_every_pixel(size):
    net = Network()
    result = predict(net, spec("native"), photo(*size))
    assert net.seen == [(1, 3, max(size[0], 32), max(size[1], 32))]  # maps of a pixel have nothing to average over
    np.testing.assert_allclose(result, 2 * np.moveaxis(photo(*size), -1, 0).astype(np.float32) / 255, rtol=1e-6)


@pytest.mark.parametrize("size", [(20, 20), (32, 32), (33, 80), (100, 57)])
def test_tiles_of_a_network_of_one_size_join_into_what_a_whole_run_gives(size):
    net = Network()
    tiled = predict(net, spec("native", dynamic=False), photo(*size))
    assert set(net.seen) == {(1, 3, 32, 32)}
    whole = predict(Network(), spec("native"), photo(*size))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_fade_into_each_other_without_a_seam():
    """Each tile is off by a constant of its own: the joined picture must have no step as large as between two tiles."""
    offsets = iter(np.linspace(0, 1, 100))
    net = Network(lambda image: 0 * image[:, :1] + next(offsets))
    grey = np.full((32, 200, 3), 128, np.uint8)
    joined = predict(net, spec("native"), grey, tile=32)[0, 16]
    step = 1 / 99
    assert len(net.seen) > 6
    assert np.abs(np.diff(joined)).max() < step / 3
    assert joined[-1] - joined[0] > 5 * step


def test_a_photo_smaller_than_the_tile_runs_whole_where_it_can():
    net = Network()
    predict(net, spec("native"), photo(40, 48), tile=64)
    assert net.seen == [(1, 3, 40, 48)]


@pytest.mark.parametrize("size", [(16, 32), (64, 40), (1, 90), (100, 100)])
def test_letterboxed_photos_keep_their_aspect_and_have_white_around(size):
    seen = []

    def net(image):
        seen.append(image)
        return image

    result = predict(net, spec("pad"), photo(*size))
    (image,) = seen
    assert image.shape == (1, 3, 32, 32)
    inner = [max(round(side * min(32 / size[0], 32 / size[1])), 1) for side in size]
    expected = np.asarray(PIL.Image.fromarray(photo(*size)).resize(inner[::-1], PIL.Image.Resampling.BILINEAR))
    np.testing.assert_allclose(np.moveaxis(result, 0, -1) * 255, expected, atol=1e-3)
    assert (image == 1).sum() >= 3 * (32 * 32 - inner[0] * inner[1])


def test_a_letterboxed_prediction_of_half_the_size_is_cut_back_too():
    result = predict(lambda image: image[:, :, ::2, ::2], spec("pad"), photo(16, 32))
    assert result.shape == (3, 8, 16)


def test_another_size_stretches_what_was_native():
    assert at_size(spec("native"), 64, 64).fit == "stretch"
    assert at_size(spec("native"), 32, 32).fit == "native"
    assert at_size(spec("pad"), 64, 64).fit == "pad"


def test_lightness_and_grey_are_what_they_are_elsewhere():
    from skimage.color import rgb2lab

    picture = photo(8, 8)
    seen = []
    light = ImageSpec(channels=1, color="lightness", height=8, width=8, mean=(0.5,), std=(0.5,))
    predict(lambda image: seen.append(image) or image, light, picture)
    np.testing.assert_allclose(seen[0][0, 0], rgb2lab(picture)[..., 0] / 50 - 1, atol=2e-3)
    grey = ImageSpec(channels=1, color="grey", height=8, width=8)
    predict(lambda image: seen.append(image) or image, grey, picture)
    np.testing.assert_allclose(seen[1][0, 0] * 255, np.asarray(PIL.Image.fromarray(picture).convert("L")), atol=1e-3)
