import contextlib
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.core.types import ImageSpec
from compress.kit import images
from compress.kit.images import list_images, prepare, read_grey, read_rgb, resize

ORIENTATION = 0x0112


def ramp(height=6, width=8):
    values = np.arange(height * width * 3, dtype=np.uint32) * 255 // (height * width * 3 - 1)
    return values.astype(np.uint8).reshape(height, width, 3)


def save(path, array, mode=None, **options):
    image = PIL.Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_a_plain_photo_comes_back_as_it_was_saved(tmp_path):
    photo = ramp()
    read = read_rgb(save(tmp_path / "a.png", photo))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, photo)


# What a viewer does with each EXIF orientation, in numpy: an independent second account of the standard's table.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.png", ramp(), exif=exif)
    np.testing.assert_array_equal(read_rgb(path), UPRIGHT[orientation](ramp()))


def test_exif_orientation_is_applied_to_16_bit_grey_and_palettes(tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    grey = (np.arange(12, dtype=np.uint16).reshape(3, 4)) * 257
    np.testing.assert_array_equal(read_grey(save(tmp_path / "a.png", grey, exif=exif)), np.rot90(grey // 257, -1))
    assert read_rgb(save(tmp_path / "b.png", ramp(3, 4), "P", exif=exif)).shape == (4, 3, 3)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "LA", "PA", "RGBA"])
def test_every_mode_becomes_rgb_of_about_the_same_colours(tmp_path, mode):
    photo = np.zeros((8, 8, 3), np.uint8)
    photo[:, 4:] = 255
    suffix = "png" if mode not in ("CMYK", "YCbCr", "PA") else "tif"
    path = save(tmp_path / f"a.{suffix}", photo, "P" if mode == "PA" else mode)
    read = read_rgb(path)
    assert read.shape == (8, 8, 3)
    assert np.abs(read.astype(int) - photo).max() <= 1


def test_a_cmyk_jpeg_is_not_inverted(tmp_path):
    photo = np.full((16, 16, 3), (250, 20, 20), np.uint8)
    read = read_rgb(save(tmp_path / "a.jpg", photo, "CMYK", quality=95))
    assert np.abs(read.astype(int) - photo).max() < 10


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = save(tmp_path / "a.png", values)
    expected = [[0, 0, 1, 1, 128, 255]]
    np.testing.assert_array_equal(read_grey(path), expected)
    np.testing.assert_array_equal(read_rgb(path)[..., 1], expected)


def test_alpha_is_laid_over_white(tmp_path):
    photo = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    read = read_rgb(save(tmp_path / "a.png", photo))
    expected = 255 + (photo[..., :3].astype(float) - 255) * photo[..., 3:] / 255
    assert np.abs(read - expected).max() <= 1


def test_a_palette_with_transparency_is_laid_over_white(tmp_path):
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), [[[255, 255, 255], [200, 0, 0]]])


def test_masks_of_every_kind(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    np.testing.assert_array_equal(read_grey(save(tmp_path / "grey.png", mask)), mask)
    np.testing.assert_array_equal(read_grey(save(tmp_path / "bit.png", mask, "1")), mask)
    np.testing.assert_array_equal(read_grey(save(tmp_path / "rgb.png", mask, "RGB")), mask)
    np.testing.assert_array_equal(read_grey(save(tmp_path / "palette.png", mask, "P")), mask)
    cutout = np.dstack([np.full((4, 6, 3), 0, np.uint8), mask])
    np.testing.assert_array_equal(read_grey(save(tmp_path / "cutout.png", cutout)), mask)
    opaque = np.dstack([mask, mask, mask, np.full_like(mask, 255)])
    np.testing.assert_array_equal(read_grey(save(tmp_path / "opaque.png", opaque)), mask)


def test_an_opaque_black_rgba_mask_is_blank(tmp_path):
    blank = np.zeros((4, 4, 4), np.uint8)
    blank[..., 3] = 255
    assert read_grey(save(tmp_path / "a.png", blank)).max() == 0


def test_luminance_is_pillows(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    expected = np.asarray(PIL.Image.fromarray(photo).convert("L"))
    np.testing.assert_array_equal(read_grey(save(tmp_path / "a.png", photo)), expected)
    np.testing.assert_array_equal(images.luminance(*np.moveaxis(photo.astype(np.int32), -1, 0)), expected)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def truncated(suffix):
    def write(path):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        save(path.with_suffix(suffix), noise)
        data = path.with_suffix(suffix).read_bytes()
        path.write_bytes(data[: len(data) // 2])

    return write


HOSTILE = {
    "absent": (lambda path: None, "no image at"),
    "a folder": (lambda path: path.mkdir(), "no image at"),
    "empty": (lambda path: path.touch(), "0 bytes"),
    "text": (lambda path: path.write_text("not a picture"), "is not an image"),
    "cut jpeg": (truncated(".jpg"), "can't be decoded"),
    "cut png": (truncated(".png"), "can't be decoded"),
    "cut webp": (truncated(".webp"), "can't be decoded|is not an image"),
    "cut tiff": (truncated(".tif"), "can't be decoded|is not an image"),
    "header only": (lambda path: path.write_bytes(png_header(8, 8)), "can't be decoded"),
    "120 megapixels": (lambda path: path.write_bytes(png_header(12000, 10000)), "too big.*12000 x 10000"),
    "bomb": (lambda path: path.write_bytes(png_header(60000, 60000)), "too big.*3600000000"),
    "float": (lambda path: save(path.with_suffix(".tif"), np.ones((4, 4), np.float32)) and None, "32-bit"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("read", [read_rgb, read_grey])
def test_hostile_files_are_refused_in_one_line_that_names_them(tmp_path, kind, read):
    write, message = HOSTILE[kind]
    path = tmp_path / ("bad.tif" if kind == "float" else "bad.png")
    write(path)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_no_damaged_byte_ends_in_anything_but_a_picture_or_a_data_error(tmp_path_factory, at, value):
    folder = tmp_path_factory.mktemp("damaged")
    for suffix in ("png", "jpg", "tif"):
        path = save(folder / f"a.{suffix}", ramp(24, 24))
        data = bytearray(path.read_bytes())
        data[at % len(data)] = value
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            assert read_rgb(path).ndim == 3


def test_resize_halves_by_averaging_a_triangle():
    row = np.zeros((1, 16), np.uint8)
    row[0, 6:8] = 240
    # bilinear antialias at half size: weights 1/8, 3/8, 3/8, 1/8 over four source pixels
    padded = np.pad(row[0].astype(float), 1, mode="edge")
    expected = [padded[2 * i : 2 * i + 4] @ [0.125, 0.375, 0.375, 0.125] for i in range(8)]
    np.testing.assert_allclose(resize(np.repeat(row, 2, 0), (1, 8))[0, 1:-1], expected[1:-1], atol=1)


def test_resize_keeps_class_numbers_when_nearest():
    classes = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (31, 17))
    assert set(np.unique(resize(classes, (20, 40), nearest=True))) <= {0, 7, 255}


@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3), (10, 12, 1), (10, 12, 4)])
def test_resize_works_on_any_number_of_channels(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    small = resize(array, 5)
    assert small.shape == (5, 5, *shape[2:])
    assert small.dtype == np.uint8
    if len(shape) == 3:
        np.testing.assert_array_equal(small[..., 0], resize(array[..., 0].copy(), 5))
    assert resize(array, shape[:2]) is array


@pytest.mark.parametrize("scale", ["255", "max"])
def test_prepare_is_the_arithmetic_the_spec_states(scale):
    photo = np.random.default_rng(0).integers(0, 200, (5, 7, 3), np.uint8)
    before = photo.copy()
    spec = ImageSpec(height=5, width=7, scale=scale, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    made = prepare(photo, spec)
    assert made.dtype == np.float32
    divisor = 255 if scale == "255" else int(photo.max())
    for c, y, x in np.ndindex(3, 5, 7):
        assert made[c, y, x] == pytest.approx((int(photo[y, x, c]) / divisor - spec.mean[c]) / spec.std[c], abs=1e-5)
    np.testing.assert_array_equal(photo, before)


def test_prepare_resizes_first_and_survives_a_black_photo():
    spec = ImageSpec(height=4, width=6, scale="max")
    photo = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_allclose(prepare(photo, spec), prepare(resize(photo, (4, 6)), spec))
    assert np.isfinite(prepare(np.zeros((4, 4, 3), np.uint8), spec)).all()


def test_prepare_makes_one_channel_of_luminance():
    photo = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    spec = ImageSpec(channels=1, height=4, width=4, color="grey", mean=(0.5,), std=(0.5,))
    grey = np.asarray(PIL.Image.fromarray(photo).convert("L"))
    np.testing.assert_allclose(prepare(photo, spec)[0], grey / 127.5 - 1, atol=1e-6)


def test_list_images_takes_images_only_in_order(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.png", "d.Tiff", "e.webp", "f.bmp", "g.jpeg", "h.tif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [p.name for p in list_images(tmp_path)]
    assert names == ["a.png", "b.JPG", "d.Tiff", "e.webp", "f.bmp", "g.jpeg", "h.tif"]


def test_list_images_refuses_what_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="found nothing"):
        list_images(tmp_path / "absent")
