"""Retouch: its metrics against scikit-image and plain loops, its data, its distillation and its commands."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import skimage.color
import skimage.metrics
import torch

from compress import cli
from compress.core.errors import DataError, UsageError
from compress.core.launch import launch
from compress.kit import fidelity
from compress.kit.data import Batches
from compress.kit.degrade import Crops, Degraded, degrade, draw
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


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


@pytest.fixture
def pairs(tmp_path):
    root = tmp_path / "pairs"
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for index in range(count):
            target = np.roll(smooth(), index * 7, axis=1)
            save(root / split / "target" / f"{index}.png", target)
            save(root / split / "input" / f"{index}.png", (target * 0.5).astype(np.uint8))
    return root


def test_scores_are_those_of_loops_and_scikit_image():
    target, guess = smooth(), noise(40, 48, 3)
    score = TASK.score(as_prediction(guess), target)
    a, b = guess / 255.0, target / 255.0
    flat = [(float(p), float(t)) for p, t in zip(a.ravel(), b.ravel(), strict=True)]
    assert score["loss"] == score["mae"] == pytest.approx(sum(abs(p - t) for p, t in flat) / len(flat), rel=1e-5)
    error = sum((p - t) ** 2 for p, t in flat) / len(flat)
    assert score["psnr"] == pytest.approx(10 * math.log10(1 / error), rel=1e-5)
    assert score["psnr"] == pytest.approx(skimage.metrics.peak_signal_noise_ratio(b, a, data_range=1.0), rel=1e-5)
    colours = skimage.color.deltaE_ciede2000(skimage.color.rgb2lab(a), skimage.color.rgb2lab(b)).mean()
    assert score["deltae"] == pytest.approx(colours, rel=1e-4)


def test_ssim_is_torchmetrics_own_away_from_the_border():
    """Torchmetrics cuts the border that scikit-image mirrors: they agree where a pattern repeats."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (np.random.default_rng(seed).random((200, 200, 3)) for seed in (1, 2))
    b = 0.7 * a + 0.3 * b
    one, two = (torch.from_numpy(np.moveaxis(image, -1, 0)[None]) for image in (a, b))
    theirs = structural_similarity_index_measure(one, two, data_range=1.0, sigma=1.5, kernel_size=11)
    assert fidelity.ssim(a, b) == pytest.approx(float(theirs), abs=0.005)


def test_fidelity_of_equal_pictures_is_the_best_and_finite():
    picture = smooth() / 255.0
    assert fidelity.psnr(picture, picture) == fidelity.MOST
    assert fidelity.ssim(picture, picture) == pytest.approx(1.0)
    assert fidelity.delta_e(picture, picture) == 0.0


def test_a_small_picture_has_an_ssim():
    assert fidelity.ssim(smooth(3, 5) / 255.0, noise(3, 5, 3) / 255.0) < 0.9


def test_a_blank_picture_is_dead_even_in_colour():
    blank = np.ones((3, 16, 16), np.float32) * np.array([0.2, 0.5, 0.9], np.float32)[:, None, None]
    assert TASK.score(blank, smooth())["dead"] == 1.0
    assert TASK.score(np.full((3, 8, 8), np.nan, np.float32), smooth())["dead"] == 1.0
    assert TASK.score(blank, np.full((16, 16, 3), 7, np.uint8))["dead"] == 0.0
    assert TASK.score(as_prediction(smooth()), smooth())["dead"] == 0.0


def test_the_picture_comes_back_at_the_size_of_the_photo():
    photo = smooth()
    drawn = TASK.pictures(photo, as_prediction(photo))["retouched"]
    assert drawn.mode == "RGB"
    assert np.array_equal(np.asarray(drawn), photo)
    assert TASK.pictures(photo, as_prediction(smooth(9, 7)))["retouched"].size == (48, 40)


def test_the_loss_is_the_l1_of_the_picture():
    raw, target = torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    wanted = ((torch.tanh(raw) + 1) / 2 - target).abs().mean()
    features = torch.full((2, 5, 4, 4), 1e3)
    assert TASK.loss([raw, features], {"target": target})["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_temperature_needs_features():
    picture = torch.zeros(1, 3, 16, 16)
    with pytest.raises(UsageError, match="no meaning"):
        TASK.distill_loss([picture], [picture], {}, 2.0)
    assert TASK.distill_loss([picture], [picture], {}, 1.0)["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_temperature_changes_what_features_are_worth():
    picture = torch.zeros(1, 3, 16, 16)
    student = [picture, torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))]
    teacher = [picture, torch.rand(1, 9, 4, 4, generator=torch.Generator().manual_seed(1))]
    found = [TASK.distill_loss(student, teacher, {}, T)["features"].item() for T in (1.0, 2.0, 7.0)]
    assert len({round(value, 7) for value in found}) == 3
    louder = [picture, 3 * student[1]]  # where it looks, not how loud it is
    assert TASK.distill_loss(louder, teacher, {}, 2.0)["features"].item() == pytest.approx(found[1], rel=1e-4)


def test_pairs_are_read_in_colour_and_make_batches(pairs):
    data = TASK.open([str(pairs)], "train")
    assert len(data) == 3
    sample = data.original(0)
    assert sample["image"].shape == sample["target"].shape == (40, 48, 3)
    for augment in (False, True):
        batch = Batches(data, TASK.input, 16, batch=2, stop=1, augment=augment, workers=0).at(0)
        assert batch["target"].shape == batch["image"].shape == (2, 3, 16, 16)
        assert 0 <= batch["target"].min() <= batch["target"].max() <= 1
        assert -1 <= batch["image"].min() < 0


@pytest.mark.parametrize(("inputs", "targets"), [("input", "expertC"), ("iphone", "canon")])
def test_published_layouts_are_read(tmp_path, inputs, targets):
    for index in range(20):
        for folder in (inputs, targets):
            save(tmp_path / folder / f"{index}.png", noise(12, 12, 3, seed=index))
    assert 10 <= len(TASK.open([str(tmp_path)], "train")) < 20


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
    from dataclasses import replace

    fault = replace(draw(0), balance=(1.0, 1.0, 1.0), contrast=1.0, blur=0.0, noise=0.0, quality=101, exposure=0.0)
    photo = smooth()
    assert np.abs(degrade(photo, fault).astype(int) - photo).max() <= 1
    assert degrade(photo, replace(fault, exposure=1.0)).mean() > photo.mean() + 10
    # one stop is twice the light: 2 ** (1 / 2.2) times the displayed value
    middle = degrade(np.full((2, 2, 3), 100, np.uint8), replace(fault, exposure=1.0))
    assert middle.max() == middle.min() == round(100 * 2 ** (1 / 2.2))


def test_it_is_trained_distilled_quantized_exported_evaluated_and_applied(pairs, tmp_path, capsys):
    def told(*arguments):
        with pytest.raises(SystemExit) as stopped:
            launch(cli.app, [str(a) for a in (*arguments, "--store", tmp_path / "artifacts")])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    tiny = ("--data", pairs, "--size", 32, "--batch", 1, "--steps", 1, "--workers", 0, "--precision", "32")
    told("train", "--teacher", "retouch_small", *tiny)
    student = told("distill", "--teacher", "retouch_small", "--student", "retouch_small", "--T", 2, *tiny).split()[-1]
    told("quantize", "--model", student, "--dtype", "int8", "--calibration", 2, "--data", pairs)
    exported = told("export", "--model", student).split()[-1]
    metrics = json.loads(told("evaluate", "--model", exported, "--data", pairs, "--json"))
    assert metrics["loss"] == metrics["mae"] < 0.6
    assert metrics["images"] == 2
    told("apply", pairs / "test" / "input" / "0.png", "--model", exported, "--out", tmp_path / "out")
    assert PIL.Image.open(tmp_path / "out" / "0.retouched.png").size == (48, 40)
