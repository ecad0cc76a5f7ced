"""Photos and pairs for the tests of retouch."""

import numpy as np
import PIL.Image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height=40, width=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5, x * 4, 255 - y * 3], axis=-1).clip(0, 255).astype(np.uint8)


def as_prediction(photo):
    return np.moveaxis(photo, -1, 0).astype(np.float32) / 255


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path)


def write_pairs(root):
    """Three pairs to train on, two each to validate and test; inputs are half as bright."""
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for index in range(count):
            target = np.roll(smooth(), index * 7, axis=1)
            save(root / split / "target" / f"{index}.png", target)
            save(root / split / "input" / f"{index}.png", (target * 0.5).astype(np.uint8))
    return root
