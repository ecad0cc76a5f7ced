"""Data of retouch: pairs in every layout that is understood, and good photos spoilt by seed."""

from dataclasses import replace

import numpy as np
import pytest
from retouch_photos import as_prediction, noise, save, smooth, write_pairs

from compress.core.errors import DataError
from compress.kit.data.degrade import Crops, Degraded, degrade, draw
from compress.kit.data.sets import Batches
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


def test_pairs_are_read_in_colour_and_make_batches(pairs):
    data = TASK.open([str(pairs)], "train")
    assert len(data) == 3
    sample = data.original(0)
    assert sample["image"].shape == sample["target"].shape == (40, 48, 3)
    for augment in (None, TASK.augmentation):
        batch = Batches(data, TASK.input, 16, batch=2, stop=1, augment=augment, workers=0).at(0)
        assert batch["target"].shape == batch["image"].shape == (2, 3, 16, 16)
        assert 0 <= batch["target"].min() <= batch["target"].max() <= 1
        assert -1 <= batch["image"].min() < 0


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        *(("input", f"expert{letter}") for letter in "ABCDE"),
        *((phone, "canon") for phone in ("iphone", "blackberry", "sony")),
        *(("before", "after"), ("low", "high"), ("Input", "Target")),
    ],
)
def test_published_layouts_are_read(tmp_path, inputs, targets):
    for index in range(20):
        for folder in (inputs, targets):
            save(tmp_path / folder / f"{index}.png", noise(12, 12, 3, seed=index))
    splits = [TASK.open([str(tmp_path)], split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 20
    assert 10 <= len(splits[0]) < 20
    sample = splits[0].original(0)
    assert np.array_equal(sample["image"], sample["target"])


def test_real_pairs_are_found_in_their_splits(shared_data):
    """SICE has train/ and test/; its val is a tenth of train, the same for everyone."""
    found = {split: TASK.open([str(shared_data / "retouch" / "sice")], split) for split in ("train", "val", "test")}
    assert not set(found["train"].names) & set(found["val"].names)
    sample = found["test"].original(0)
    assert sample["image"].shape == sample["target"].shape
    assert TASK.score(as_prediction(sample["image"]), sample["target"])["loss"] > 0.01


def test_pairs_that_do_not_match_are_refused(pairs):
    (pairs / "train" / "target" / "1.png").unlink()
    with pytest.raises(DataError, match="1 photos without a target"):
        TASK.open([str(pairs)], "train")


def test_inputs_without_any_target_are_not_taken_for_good_photos(tmp_path):
    save(tmp_path / "input" / "a.png", smooth())
    with pytest.raises(DataError, match="no photos with targets"):
        TASK.open([str(tmp_path)], "train")


def test_a_pair_of_two_sizes_is_refused(pairs):
    save(pairs / "train" / "target" / "1.png", smooth(20, 24))
    with pytest.raises(DataError, match="differ in size"):
        TASK.open([str(pairs)], "train").original(1)


@pytest.mark.parametrize("found", ["absent", "empty"])
def test_a_folder_that_is_nothing_is_refused(tmp_path, found):
    if found == "empty":
        (tmp_path / found).mkdir()
    with pytest.raises(DataError):
        TASK.open([str(tmp_path / found)], "train")


def test_good_photos_alone_become_pairs(tmp_path):
    for index in range(6):
        save(tmp_path / "good" / f"{index}.png", np.roll(smooth(), index, axis=0))
    data = TASK.open([str(tmp_path / "good")], "train")
    first, again = data.original(0), TASK.open([str(tmp_path / "good")], "train").original(0)
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], first["target"])
    other = TASK.open([str(tmp_path / "good")], "train", seed=1)
    assert other.fingerprint != data.fingerprint


def test_builtin_splits_are_seeded_and_of_different_photos():
    train, val = Crops("train", length=2, size=32), Crops("val", length=2, size=32)
    assert np.array_equal(train.original(1)["image"], Crops("train", length=2, size=32).original(1)["image"])
    assert train.fingerprint != val.fingerprint != Crops("val", seed=1, length=2, size=32).fingerprint
    assert set(Degraded(val).original(0)) == {"image", "target"}


def test_every_fault_does_harm_and_keeps_the_shape():
    photo = Crops("test", length=1, size=64).original(0)["image"]
    kept = photo.copy()
    losses = []
    for seed in range(12):
        spoilt = degrade(photo, draw(seed))
        assert spoilt.shape == photo.shape
        assert spoilt.dtype == np.uint8
        assert np.array_equal(spoilt, degrade(photo, draw(seed)))
        losses.append(TASK.score(as_prediction(spoilt), photo)["loss"])
    assert np.array_equal(photo, kept)
    assert min(losses) > 0.005
    assert len(set(losses)) == 12


def test_a_brighter_exposure_is_brighter():
    fault = replace(draw(0), balance=(1.0, 1.0, 1.0), contrast=1.0, blur=0.0, noise=0.0, quality=101, exposure=0.0)
    photo = smooth()
    assert np.abs(degrade(photo, fault).astype(int) - photo).max() <= 1
    assert degrade(photo, replace(fault, exposure=1.0)).mean() > photo.mean() + 10
    # one stop is twice the light: 2 ** (1 / 2.2) times the displayed value
    middle = degrade(np.full((2, 2, 3), 100, np.uint8), replace(fault, exposure=1.0))
    assert middle.max() == middle.min() == round(100 * 2 ** (1 / 2.2))


PLAIN = replace(draw(0), balance=(1.0, 1.0, 1.0), contrast=1.0, blur=0.0, noise=0.0, quality=101, exposure=0.0)


def spoilt(photo, **fault):
    return degrade(photo, replace(PLAIN, **fault)).astype(float)


def test_all_six_faults_are_there_and_none_is_alone():
    faults = [draw(seed) for seed in range(300)]
    assert min(f.exposure for f in faults) < -1 < 0.5 < max(f.exposure for f in faults)
    assert min(f.contrast for f in faults) < 0.65 < 0.95 < max(f.contrast for f in faults)
    assert all(np.prod(f.balance) == pytest.approx(1) for f in faults)
    assert max(max(f.balance) for f in faults) > 1.2
    for happens in ([f.blur > 0 for f in faults], [f.noise > 0 for f in faults], [f.quality <= 100 for f in faults]):
        assert 0.3 < np.mean(happens) < 0.8


def test_each_fault_does_what_it_is_called():
    photo = noise(32, 32, 3)
    flat = np.full((32, 32, 3), 100, np.uint8)
    warm = spoilt(flat, balance=(1.2, 1.0, 1 / 1.2))
    assert warm[..., 0].mean() > 100 > warm[..., 2].mean()
    assert warm[..., 1].mean() == 100
    low = spoilt(photo, contrast=0.5)
    np.testing.assert_allclose(low, (photo - 127.5) * 0.5 + 127.5, atol=1)
    blurred = spoilt(photo, blur=1.0)
    assert blurred.std() < 0.6 * photo.std()
    grainy = spoilt(flat, noise=0.03) - 100
    assert grainy.std() == pytest.approx(0.03 * 255, rel=0.1)
    assert abs(grainy.mean()) < 0.5
    saved = spoilt(photo, quality=40)
    assert np.abs(saved - photo).mean() > 5


def test_sources_are_joined(pairs, tmp_path):
    save(tmp_path / "good" / "a.png", smooth())
    pair, photos = TASK.open([str(pairs)], "train"), TASK.open([str(tmp_path / "good")], "train")
    both = TASK.open([str(pairs), str(tmp_path / "good")], "train")
    assert len(both) == len(pair) + len(photos)
