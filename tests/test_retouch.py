"""Retouch: its metrics against scikit-image and plain loops, its data, its distillation and its commands."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import skimage.color
import skimage.metrics
import torch
from distilling import distil
from retouch_photos import as_prediction, noise, smooth, write_pairs

from compress import cli
from compress.core.errors import UsageError
from compress.core.launch import launch
from compress.kit.measure import fidelity
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


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
        distil(TASK, [picture], [picture], {}, 2.0)
    assert distil(TASK, [picture], [picture], {}, 1.0)["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_temperature_changes_what_features_are_worth():
    picture = torch.zeros(1, 3, 16, 16)
    student = [picture, torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))]
    teacher = [picture, torch.rand(1, 9, 4, 4, generator=torch.Generator().manual_seed(1))]
    found = [distil(TASK, student, teacher, {}, T)["features"].item() for T in (1.0, 2.0, 7.0)]
    assert len({round(value, 7) for value in found}) == 3
    louder = [picture, 3 * student[1]]  # where it looks, not how loud it is
    assert distil(TASK, louder, teacher, {}, 2.0)["features"].item() == pytest.approx(found[1], rel=1e-4)


def test_the_baseline_is_the_photo_itself():
    baseline = TASK.baseline(TASK.open(["builtin"], "train"))
    assert baseline.name == "identity"
    sample = TASK.open(["builtin"], "test").original(0)
    guess = baseline.guess(sample["image"])
    assert guess.shape == (3, *sample["image"].shape[:2])
    assert guess.dtype == np.float32
    wanted = np.abs(sample["image"].astype(float) - sample["target"].astype(float)).mean() / 255
    assert TASK.score(guess, sample["target"])["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_network_of_no_mind_of_its_own_is_taught_l1():
    lesson = TASK.teach(TASK.open(["builtin"], "train"))
    assert not lesson.rivals
    raw, target = torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    batch = {"image": raw, "target": target}
    assert torch.equal(lesson.loss([raw], batch)["loss"], TASK.loss([raw], batch)["loss"])


def test_photos_keep_their_size_and_their_light():
    assert TASK.input.fit == "native"
    assert not TASK.augmentation.relight


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
