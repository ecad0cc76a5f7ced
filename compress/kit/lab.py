"""CIE 1976 L*a*b* of sRGB pictures and back, under D65, for tensors and arrays alike."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

AB = 128.0  # a* and b* of sRGB colours lie within -107.9..98.3: divided by this they stay inside -1..1

# IEC 61966-2-1: linear sRGB to XYZ, and the white of D65 seen by the two degree observer
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
# CIE 15:2004, section 8.2.1: where the cube root gives way to a line, and that line
_EDGE, _SLOPE, _OFFSET = (6 / 29) ** 3, (29 / 6) ** 2 / 3, 4 / 29


def rgb_to_lab(picture: torch.Tensor) -> torch.Tensor:
    """Turn sRGB 0..1 (N, 3, H, W) into L* 0..100 and a*, b* (N, 3, H, W), float32 under autocast too (or float64)."""
    red, green, blue = _widened(picture).unbind(1)
    lightness, a, b = _lab(_linear(red), _linear(green), _linear(blue))
    lab: torch.Tensor = _stack((lightness, a, b), 1)
    return lab


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Turn L*, a*, b* (N, 3, H, W) into sRGB 0..1 of that shape; colours that sRGB lacks are clipped plane by plane."""
    rgb: torch.Tensor = _stack(_rgb(*_widened(lab).unbind(1)), 1)
    return rgb


def rgb_to_lab_array(picture: NDArray[Any]) -> NDArray[np.float32]:
    """Turn sRGB (H, W, 3), uint8 or floats 0..1, into L* 0..100 and a*, b* (H, W, 3)."""
    linear = [_linear_levels(np)[plane] if plane.dtype == np.uint8 else _linear(plane) for plane in _planes(picture)]
    lab: NDArray[np.float32] = np.stack(_lab(*linear), axis=-1).astype(np.float32)
    return lab


def lab_to_rgb_array(lab: NDArray[Any]) -> NDArray[np.float32]:
    """Turn L*, a*, b* (H, W, 3) into sRGB 0..1 of that shape; colours that sRGB lacks are clipped plane by plane."""
    rgb: NDArray[np.float32] = np.stack(_rgb(*_planes(lab)), axis=-1).astype(np.float32)
    return rgb


def lightness_tensor(image: torch.Tensor) -> torch.Tensor:
    """Give L* of sRGB uint8 (N, 3, H, W), its 0..100 laid over 0..255: float32 (N, 1, H, W)."""
    import torch

    linear = _linear_levels(torch)[image.long().cpu()].to(image.device)
    lightness: torch.Tensor = _lightness(_luminance(*linear.unbind(1)))[:, None] * 2.55
    return lightness


def lightness_array(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give L* of sRGB uint8 (H, W, 3), its 0..100 laid over 0..255: float32 (H, W)."""
    linear = _linear_levels(np)[photo]
    lightness: NDArray[np.float32] = _lightness(_luminance(*_planes(linear))) * np.float32(2.55)
    return lightness


def colorfulness(picture: NDArray[Any]) -> float:
    """Colourfulness M3 of sRGB 0..1 (H, W, 3): 0 for grey, 15 slightly, 45 quite, 109 extremely colourful.

    Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images", section 4: with rg = R - G and
    yb = (R + G) / 2 - B of values 0..255, the joint standard deviation plus 0.3 of the joint mean.
    """
    red, green, blue = (plane.astype(np.float64) * 255.0 for plane in _planes(picture))
    rg, yb = red - green, (red + green) / 2.0 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def _lab(red: Any, green: Any, blue: Any) -> tuple[Any, Any, Any]:
    """L*, a*, b* of linear light: CIE 15:2004, equations 8.3 to 8.5."""
    tristimulus = [sum(k * light for k, light in zip(row, (red, green, blue), strict=True)) for row in _XYZ]
    x, y, z = (_root(value / white) for value, white in zip(tristimulus, _WHITE, strict=True))
    return 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)


def _rgb(lightness: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    y = (lightness + 16.0) / 116.0
    z = y - b / 200.0
    roots = (y + a / 500.0, y, _framework(z).clip(z, 0.0, None))  # as scikit-image: no colour lies below that
    tristimulus = [_cube(root) * white for root, white in zip(roots, _WHITE, strict=True)]
    red, green, blue = (
        _shown(sum(float(k) * value for k, value in zip(row, tristimulus, strict=True))) for row in np.linalg.inv(_XYZ)
    )
    return red, green, blue


def _luminance(red: Any, green: Any, blue: Any) -> Any:
    return _XYZ[1][0] * red + _XYZ[1][1] * green + _XYZ[1][2] * blue


def _lightness(luminance: Any) -> Any:
    return 116.0 * _root(luminance) - 16.0


def _root(value: Any) -> Any:
    """Cube root, and a line near black. The clip keeps the root's endless slope at 0 out of gradients."""
    xp = _framework(value)
    return xp.where(value > _EDGE, xp.clip(value, _EDGE, None) ** (1 / 3), _SLOPE * value + _OFFSET)


def _cube(root: Any) -> Any:
    return _framework(root).where(root > 6 / 29, root**3, (root - _OFFSET) / _SLOPE)


def _linear(value: Any) -> Any:
    """Light of displayed values 0..1 (IEC 61966-2-1, section 5.2)."""
    xp = _framework(value)
    return xp.where(value > 0.04045, ((xp.clip(value, 0.04045, None) + 0.055) / 1.055) ** 2.4, value / 12.92)


def _shown(light: Any) -> Any:
    """Displayed values of light, both 0..1; what lies outside is clipped."""
    xp = _framework(light)
    curve = 1.055 * xp.clip(light, 0.0031308, None) ** (1 / 2.4) - 0.055
    return xp.clip(xp.where(light > 0.0031308, curve, 12.92 * light), 0.0, 1.0)


@cache
def _linear_levels(xp: Any) -> Any:
    """Light of the 256 levels of a photo, float32 (256,)."""
    levels = _linear(np.arange(256) / 255.0).astype(np.float32)
    return levels if xp is np else xp.from_numpy(levels)


def _planes(picture: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    assert picture.ndim == 3 and picture.shape[-1] == 3, f"picture {picture.shape}, wanted (H, W, 3)"
    return picture[..., 0], picture[..., 1], picture[..., 2]


def _widened(picture: torch.Tensor) -> torch.Tensor:
    import torch

    assert picture.ndim == 4 and picture.shape[1] == 3, f"picture {tuple(picture.shape)}, wanted (N, 3, H, W)"
    return picture.to(torch.promote_types(picture.dtype, torch.float32))


def _framework(value: Any) -> Any:
    """Numpy or torch: both have ``where``, ``clip`` and ``stack`` of one meaning."""
    if isinstance(value, np.ndarray | np.generic):
        return np
    import torch

    return torch


def _stack(parts: tuple[Any, ...], axis: int) -> Any:
    return _framework(parts[0]).stack(parts, axis)
