import subprocess
import sys

import numpy as np
import pytest

from compress.core.errors import UsageError
from compress.kit.data import builtin, shapes
from compress.kit.data.builtin import LENGTHS, Builtin


def circle(radius, centre, points=4096):
    return shapes.ellipse(points=points) * radius + centre


@pytest.mark.parametrize("radius", [3.0, 17.3, 40.0])
def test_a_discs_coverage_is_its_area(radius):
    covered = shapes.coverage([circle(radius, [48.3, 47.9])], 96)
    # what scan lines leave: less than a thousandth of the rim's pixels
    assert covered.sum(dtype=np.float64) == pytest.approx(np.pi * radius**2, abs=2e-3 * np.pi * radius)
    assert covered.min() == 0
    assert covered.max() == 1


def test_a_ring_lacks_its_hole():
    covered = shapes.coverage([circle(40, 48), circle(15, 48)[::-1]], 96)
    assert covered.sum(dtype=np.float64) == pytest.approx(np.pi * (40**2 - 15**2), rel=3e-4)
    assert covered[48, 48] < 1e-6


def test_overlapping_parts_count_once():
    one, two = circle(20, [40, 48]), circle(20, [55, 48])
    together = shapes.coverage([one, two], 96)
    rows, columns = np.mgrid[:96, :96]
    fine = np.zeros((96, 96))
    for dy in (np.arange(16) + 0.5) / 16:  # 16 x 16 samples a pixel
        for dx in (np.arange(16) + 0.5) / 16:
            x, y = columns + dx, rows + dy
            fine += np.minimum((x - 40) ** 2, (x - 55) ** 2) + (y - 48) ** 2 < 20**2
    assert np.abs(together - fine / 256).max() < 0.1
    assert together.sum() == pytest.approx(fine.sum() / 256, rel=1e-3)


def test_a_box_covers_each_pixel_by_its_share():
    box = np.array([[2.25, 3.5], [6.5, 3.5], [6.5, 6.75], [2.25, 6.75]])
    covered = shapes.coverage([box], 9)
    across, down = np.zeros(9), np.zeros(9)
    across[2:7] = [0.75, 1, 1, 1, 0.5]
    down[3:7] = [0.5, 1, 1, 0.75]
    np.testing.assert_allclose(covered, np.outer(down, across), atol=1e-6)


def test_outlines_beyond_the_picture_are_cut_off():
    covered = shapes.coverage([circle(30, [0, 0])], 64)
    assert covered.sum(dtype=np.float64) == pytest.approx(np.pi * 900 / 4, rel=1e-3)
    assert shapes.coverage([circle(5, [-20, 30])], 64).max() == 0


@pytest.mark.parametrize("kind", shapes._KINDS)
def test_every_kind_of_outline_fills_something_and_turns_without_growing(kind):
    for seed in range(5):
        outline = kind(np.random.default_rng(seed))
        areas = [shapes.coverage(shapes.place(outline, (80, 80), 70, a), 160).sum() for a in (0, 1)]
        assert 300 < areas[0] < np.pi * 70**2
        assert areas[0] == pytest.approx(areas[1], rel=2e-3)


def test_samples_are_photos_with_soft_masks():
    dataset = Builtin("train", length=12)
    soft = 0
    for index in range(12):
        sample = dataset.original(index)
        assert sample["image"].shape == (256, 256, 3)
        assert sample["target"].shape == (256, 256)
        assert sample["image"].dtype == sample["target"].dtype == np.uint8
        share = (sample["target"] > 127).mean()
        assert 0.01 < share < 0.75
        soft += ((sample["target"] > 0) & (sample["target"] < 255)).sum()
    assert soft > 12 * 50


def test_samples_are_equal_bit_for_bit_in_another_process():
    code = (
        "import hashlib; from compress.kit.data.builtin import Builtin; d = Builtin('val', 7, size=64)\n"
        "print(d.fingerprint, *(hashlib.sha256(d.original(i)[k].tobytes()).hexdigest() "
        "for i in (5, 3) for k in ('image', 'target')))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert first.startswith(Builtin("val", 7, size=64).fingerprint)


def test_a_sample_does_not_depend_on_those_before_it():
    dataset = Builtin("test", size=64)
    alone = dataset.original(9)
    dataset.original(3)
    again = dataset.original(9)
    assert all((alone[key] == again[key]).all() for key in alone)


def test_splits_seeds_and_indices_differ():
    samples = [
        Builtin(split, seed, size=64).original(index)["image"].tobytes()
        for split in LENGTHS
        for seed in (0, 1)
        for index in (0, 1)
    ]
    assert len(set(samples)) == len(samples)


def test_no_photo_stands_in_two_splits():
    photos = [name for names in builtin._PHOTOS.values() for name in names]
    assert len(photos) == len(set(photos))


def test_lengths_names_and_fingerprints():
    assert {split: len(Builtin(split)) for split in LENGTHS} == {"train": 512, "val": 64, "test": 64}
    assert Builtin("val", length=2).names == ("val-00000", "val-00001")
    sets = [Builtin("val"), Builtin("test"), Builtin("val", 1), Builtin("val", length=3), Builtin("val", size=64)]
    assert len({s.fingerprint for s in sets}) == len(sets)
    assert Builtin("val", length=64).fingerprint == Builtin("val").fingerprint
    with pytest.raises(IndexError):
        Builtin("val", length=3).original(3)


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="unknown split 'dev'"):
        Builtin("dev")


def best_iou(feature, mask):
    """IoU of the best of all thresholds and both directions, chosen knowing the mask."""
    best = 0.0
    for threshold in np.quantile(feature, np.linspace(0.02, 0.98, 40)):
        for guess in (feature > threshold, feature <= threshold):
            best = max(best, (guess & mask).sum() / (guess | mask).sum())
    return best


def test_no_threshold_finds_the_object_even_when_it_knows_the_mask():
    scores = {"luminance": [], "saturation": [], "distance from the border's colour": []}
    dataset = Builtin("test", length=40, size=96)
    for index in range(40):
        sample = dataset.original(index)
        image, mask = sample["image"].astype(np.float64), sample["target"] > 127
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(axis=0)
        scores["luminance"].append(best_iou(image @ [0.299, 0.587, 0.114], mask))
        scores["saturation"].append(best_iou(np.ptp(image, axis=2) / (image.max(axis=2) + 1), mask))
        scores["distance from the border's colour"].append(best_iou(np.linalg.norm(image - border, axis=2), mask))
    means = {name: np.mean(values) for name, values in scores.items()}
    assert max(means.values()) < 0.5, means


def test_objects_can_be_seen():
    dataset = Builtin("train", length=20, size=96)
    for index in range(20):
        sample = dataset.original(index)
        inside, outside = (sample["image"][sample["target"] == v].astype(float) for v in (255, 0))
        gap = np.abs(inside.mean(axis=0) - outside.mean(axis=0)).sum() + np.abs(inside.std() - outside.std())
        assert gap > 3
