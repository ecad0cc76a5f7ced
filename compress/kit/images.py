"""Photos and masks from files, the right way up and of the right type, and what a network is fed."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.types import ImageSpec

Array = NDArray[np.uint8]
T = TypeVar("T")

MAX_PIXELS = 100_000_000  # a photo above this is refused from its header: decoding it would eat the memory
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_ORIENTATION = 0x0112  # EXIF 2.3, table 4
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on bytes that are not what the header promised.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_rgb(path: str | Path) -> Array:
    """Read a photo as (H, W, 3), 0..255, upright; transparency is laid over white.

    Raises:
        DataError: If the file is absent, empty, cut short, above ``MAX_PIXELS`` or no image.
    """
    return _read(Path(path), _rgb)


def decode_rgb(data: bytes, where: str) -> Array:
    """Decode an encoded picture as ``read_rgb`` reads a file; ``where`` is what to call it in messages.

    Raises:
        DataError: As ``read_rgb``.
    """
    return _decode(BytesIO(data), Path(where), _rgb)


def read_grey(path: str | Path) -> Array:
    """Read a mask as (H, W), 0..255, upright.

    A cut-out of one flat colour keeps its mask in the alpha channel; any other picture in its luminance.

    Raises:
        DataError: As ``read_rgb``.
    """
    return _read(Path(path), _grey)


def resize(array: Array, size: int | tuple[int, int], *, nearest: bool = False) -> Array:
    """Resize (H, W[, C]) to ``size`` (height, width), or one number for both; antialiased where it shrinks.

    ``nearest`` picks values instead of mixing them, as class maps need. An array of that size comes back itself.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if array.shape[:2] == (height, width):
        return array
    if array.ndim == 3 and array.shape[2] != 3:
        planes = [resize(array[..., c], (height, width), nearest=nearest) for c in range(array.shape[2])]
        return np.stack(planes, axis=-1)
    how = PIL.Image.Resampling.NEAREST if nearest else PIL.Image.Resampling.BILINEAR
    return np.asarray(PIL.Image.fromarray(array).resize((width, height), how))


def resize_plane(
    plane: NDArray[np.float32], size: tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> NDArray[np.float32]:
    """Resize one predicted map (h, w) to (height, width), the first two of ``size``; antialiased where it shrinks.

    Bilinear. What is not a number becomes 0, and the rest is cut to low..high: a dequantized activation may leave its
    range by a rounding step.
    """
    values = np.clip(np.nan_to_num(plane, nan=0.0), low, high).astype(np.float32)
    how = PIL.Image.Resampling.BILINEAR
    return np.asarray(PIL.Image.fromarray(values).resize((size[1], size[0]), how))


def letterbox(photo: Array, sides: tuple[int, int]) -> tuple[Array, tuple[slice, slice]]:
    """Fit a photo (H, W[, C]) into ``sides`` (height, width), its aspect kept, white around; and tell where it lies."""
    scale = min(side / have for side, have in zip(sides, photo.shape[:2], strict=True))
    inner = tuple(max(round(have * scale), 1) for have in photo.shape[:2])
    top, left = ((side - have) // 2 for side, have in zip(sides, inner, strict=True))
    box = np.full((*sides, *photo.shape[2:]), 255, np.uint8)
    where = slice(top, top + inner[0]), slice(left, left + inner[1])
    box[where] = resize(photo, (inner[0], inner[1]))
    return box, where


def prepare(photo: Array, spec: ImageSpec) -> NDArray[np.float32]:
    """Turn a photo (H, W, 3) into what a network is fed: float32 (C, h, w), resized to the spec's height and width.

    Scale "max" is the maximum after that.
    """
    return normalized(resize(photo, (spec.height, spec.width)), spec)


def normalized(photo: Array, spec: ImageSpec) -> NDArray[np.float32]:
    """Turn a photo (H, W, 3) into float32 (C, H, W): ``(photo / divisor - mean) / std``, as ``ImageSpec`` states it.

    Training batches share the arithmetic.
    """
    values = _planes(photo, spec)
    divisor = np.float32(255) if spec.scale == "255" else max(values.max(), np.float32(1))
    mean, std = (np.array(v[: spec.channels], np.float32)[:, None, None] for v in (spec.mean, spec.std))
    result: NDArray[np.float32] = (values / divisor - mean) / std
    return result


def _planes(photo: Array, spec: ImageSpec) -> NDArray[np.float32]:
    if spec.color == "lightness":
        from compress.kit.lab import lightness_array

        return lightness_array(photo)[None]
    planes = np.moveaxis(photo, -1, 0)
    if spec.channels == 1:
        planes = luminance(*planes.astype(np.int32))[None]
    return planes.astype(np.float32)


def luminance(red: Any, green: Any, blue: Any) -> Any:
    """Luminance of integer planes 0..255, rounded: ITU-R BT.601-2 in Pillow's own 16-bit fixed point.

    red, green, blue: arrays or tensors of one shape, of at least 32 bits. Returns the same shape, 0..255.
    """
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def list_images(folder: str | Path) -> list[Path]:
    """List the images directly in ``folder`` by suffix, sorted; hidden files are left out.

    Raises:
        DataError: If it is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"no folder at '{folder}': found {found}, wanted a folder of images")
    return sorted(p for p in folder.iterdir() if is_image(p))


def is_image(path: Path) -> bool:
    """Whether ``path`` is a visible file with an image's suffix."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read(path: Path, convert: Callable[[PIL.Image.Image], Array]) -> Array:
    if not path.is_file():
        raise DataError(f"no image at '{path}'", hint="check the path")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty: found 0 bytes, wanted an image", hint="copy it again")
    return _decode(path, path, convert)


def _decode(source: Path | BytesIO, path: Path, convert: Callable[[PIL.Image.Image], Array]) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # ``_check_size`` is the stricter law
            image = PIL.Image.open(source)
    except PIL.Image.DecompressionBombError as error:
        raise _too_big(path, str(error).split(",", maxsplit=1)[0]) from error
    except PIL.UnidentifiedImageError as error:
        wanted = ", ".join(sorted(s[1:] for s in SUFFIXES))
        raise DataError(f"'{path}' is not an image: found other bytes, wanted one of {wanted}") from error
    except _BROKEN as error:
        raise _broken(path, error) from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_big(path, f"{image.width} x {image.height} pixels")
        try:
            return convert(_upright(_eight_bit(image)))
        except _BROKEN as error:
            raise _broken(path, error) from error


def _too_big(path: Path, found: str) -> DataError:
    limit = f"at most {MAX_PIXELS // 10**6} megapixels"
    return DataError(f"'{path}' is too big: found {found}, wanted {limit}", hint="make it smaller first")


def _broken(path: Path, error: Exception) -> DataError:
    found = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"'{path}' can't be decoded: found {found}, wanted a whole image", hint="copy or save it again")


def _eight_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"32-bit pixels {values.min()} to {values.max()} where 8 or 16 bits were wanted")
    grey = PIL.Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    grey.getexif().update(image.getexif())
    return grey


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    how = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    # decoded before it is turned, so that a palette's transparency is still known afterwards
    flat = image.convert("RGBA") if image.has_transparency_data else image
    return flat.transpose(how) if how is not None else flat


def _rgb(image: PIL.Image.Image) -> Array:
    if image.mode == "RGBA":
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _grey(image: PIL.Image.Image) -> Array:
    if image.mode == "RGBA":
        pixels = np.array(image)
        flat, alpha = (pixels[..., :3] == pixels[0, 0, :3]).all(), pixels[..., 3]
        if flat and alpha.min() != alpha.max():  # an opaque RGBA file of one colour is a blank mask, not a full one
            return alpha.copy()
        image = image.convert("RGB")
    return np.array(image.convert("L"))
