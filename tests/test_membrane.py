"""Membranes: what the task adds to the quality functions and scores it is made of, and its built-in cells."""

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import sklearn.metrics
import torch
from distilling import distil

from compress.core.errors import DataError, UsageError
from compress.kit.data.cells import Cells
from compress.kit.measure import losses
from compress.kit.measure.rand import cells, rand_curve
from compress.tasks import TASKS

TASK = TASKS.get("membrane")


@pytest.fixture(scope="module")
def truth():
    return Cells("test").original(0)["target"]


def noisy(truth, seed=0):
    smooth = scipy.ndimage.gaussian_filter(truth / 255.0, 1.0)
    return np.clip(smooth + np.random.default_rng(seed).normal(0, 0.2, truth.shape), 0, 1).astype(np.float32)[None]


def levels(seed, sides):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 1, side, side, generator=generator) * 2 for side in sides]


@pytest.fixture
def batch():
    return {"target": (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.3).float()}


def test_photos_are_one_grey_channel_between_minus_one_and_one():
    assert (TASK.input.channels, TASK.input.color, TASK.input.fit) == (1, "grey", "native")
    assert (np.array([0, 255]) / 255 - TASK.input.mean[0]) / TASK.input.std[0] == pytest.approx([-1, 1])


def test_metrics_are_scikit_learn_s(truth):
    mask = noisy(truth)
    found = TASK.summarize([TASK.score(mask, truth)])
    real, inside = truth.ravel() / 255, truth.ravel() > 127
    assert found["loss"] == pytest.approx(sklearn.metrics.mean_squared_error(real, mask.ravel()), rel=1e-5)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(real, mask.ravel()), rel=1e-5)
    assert found["percent"] == pytest.approx(sklearn.metrics.accuracy_score(inside, mask.ravel() > 0.5))
    assert found["iou"] == pytest.approx(sklearn.metrics.jaccard_score(inside, mask.ravel() > 0.5))
    assert found["rand"] == pytest.approx(rand_curve(mask[0], truth > 127).max())


def test_the_rand_score_takes_one_threshold_for_the_whole_set(truth):
    other = Cells("test").original(1)["target"]
    low, high = ((truth > 127) * 0.3)[None], ((other > 127) * 0.3 + 0.6)[None]
    scores = [TASK.score(p.astype(np.float32), t) for p, t in ((low, truth), (high, other))]
    apart = [TASK.summarize([score])["rand"] for score in scores]
    together = TASK.summarize(scores)["rand"]
    assert apart == [1.0, 1.0]
    assert together < 0.7  # cut low, the second mask is one cell; cut high, the first is
    table = TASK.details(scores)["rand_by_threshold"]
    assert list(table) == [f"0.{k}" for k in range(1, 10)]
    assert max(table.values()) == together


def test_a_perfect_mask_scores_at_the_ends_of_every_scale(truth):
    best = {"loss": 0, "mae": 0, "percent": 1, "iou": 1, "rand": 1, "dead_masks": 0, "images": 1}
    assert TASK.summarize([TASK.score(TASK.as_prediction(truth), truth)]) == pytest.approx(best)


def test_a_mask_is_measured_at_the_size_of_its_photo(truth):
    half = np.asarray(PIL.Image.fromarray(truth).resize((64, 64), PIL.Image.Resampling.BOX))
    score = TASK.score(TASK.as_prediction(half), truth)
    up = torch.nn.functional.interpolate(torch.from_numpy(half / 255.0)[None, None], size=(128, 128), mode="bilinear")
    assert score["mae"] == pytest.approx(np.abs(up[0, 0].numpy() - truth / 255).mean(), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_blank_mask_is_dead_however_many_pixels_are_right(value, truth):
    score = TASK.score(np.full((1, 8, 8), value, np.float32), truth)
    share = (truth > 0).mean()
    assert score["dead"] == 1
    assert score["percent"] == pytest.approx(share if value > 0.5 else 1 - share)
    assert TASK.score(np.ones((1, 8, 8), np.float32), np.full_like(truth, 255))["dead"] == 0


def test_values_that_are_not_numbers_score_as_dead_membrane(truth):
    broken = TASK.as_prediction(truth)
    broken[0, 0] = np.nan
    score = TASK.score(broken, truth)
    assert score["dead"] == 1
    assert score["mae"] == pytest.approx((truth[0] > 0).sum() / truth.size)


def test_the_constant_mask_is_the_best_constant():
    train = TASK.open(["builtin"], "val")
    baseline = TASK.baseline(train)
    share = np.mean([train.original(index)["target"] for index in range(len(train))]) / 255
    assert baseline.guess(np.zeros((5, 7, 3), np.uint8)) == pytest.approx(np.full((1, 5, 7), share), abs=1e-6)

    def loss(value):
        scores = [np.mean((value - train.original(index)["target"] / 255) ** 2) for index in range(len(train))]
        return np.mean(scores)

    assert loss(share) < min(loss(share - 0.02), loss(share + 0.02))


def test_the_loss_is_the_squared_error_of_the_mask(batch):
    raw = levels(5, (16, 16))
    wanted = [((torch.sigmoid(2 * o) - batch["target"]) ** 2).mean().item() for o in raw]
    assert TASK.loss(raw, batch)["loss"].item() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_distillation_is_a_tempered_kl_of_the_mask_s_own_logits(batch):
    student, teacher = levels(5, (16,)), levels(6, (16,))
    parts = distil(TASK, student, teacher, batch, 2.0)
    p, q = (torch.sigmoid(2 * o[0].double() / 2.0) for o in (teacher, student))
    kl = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    mask = (torch.tanh(student[0].double()) + 1) / 2
    t = batch["target"].double()
    hard = -(t * mask.log() + (1 - t) * (1 - mask).log()).mean()
    assert parts["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert parts["hard"].item() == pytest.approx(hard.item(), rel=1e-4)
    assert parts["loss"].item() == pytest.approx((kl + 0.5 * hard).item(), rel=1e-4)


def test_levels_that_only_one_has_are_left_out_and_others_resized():
    student, teacher = levels(5, (16, 8)), levels(6, (16, 8, 4))
    terms = [losses.tempered_binary_kl(2 * s, 2 * t, 3.0).item() for s, t in zip(student, teacher, strict=False)]
    assert distil(TASK, student, teacher, {}, 3.0)["loss"].item() == pytest.approx(np.mean(terms), rel=1e-5)
    flat = [torch.full((2, 1, 5, 5), 0.7)]
    wanted = losses.tempered_binary_kl(2 * student[0], torch.full((2, 1, 16, 16), 1.4), 3.0).item()
    assert distil(TASK, student, flat, {}, 3.0)["kl"].item() == pytest.approx(wanted, rel=1e-5)


def test_pictures_are_the_mask_and_the_photo_with_red_membranes(truth):
    photo = Cells("test").original(0)["image"]
    pictures = TASK.pictures(photo, TASK.as_prediction(truth))
    assert {name: picture.mode for name, picture in pictures.items()} == {"mask": "L", "overlay": "RGB"}
    assert np.array_equal(pictures["mask"], truth)
    overlay, inside = np.asarray(pictures["overlay"]).astype(int), truth > 0
    assert np.array_equal(overlay[inside], photo[inside])
    assert (overlay[~inside][:, 0] > overlay[~inside][:, 1] + 50).all()


def test_open_joins_folders_and_the_built_in_cells(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for k in range(12):
            PIL.Image.fromarray(Cells("val").original(k)["target"]).save(tmp_path / kind / f"{k}.png")
    both = TASK.open([str(tmp_path), "builtin"], "val")
    assert len(both) == 2 + len(Cells("val"))
    assert both.names[2:] == Cells("val").names


@pytest.mark.parametrize("data", [[], ["no/such/folder"], ["builtin", "no/such/folder"]])
def test_open_refuses_what_is_not_there(data):
    with pytest.raises(DataError):
        TASK.open(data, "train")


def test_the_built_in_cells_are_a_pure_function_of_seed_and_index():
    first, second = Cells("train", 3), Cells("train", 3)
    assert first.fingerprint == second.fingerprint
    assert all(np.array_equal(first.original(5)[key], second.original(5)[key]) for key in ("image", "target"))
    others = [Cells("train", 4), Cells("val", 3), Cells("train", 3, size=64)]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert not any(np.array_equal(first.original(5)["target"], other.original(5)["target"]) for other in others)
    with pytest.raises(UsageError, match="unknown split"):
        Cells("trian")


def test_the_built_in_cells_are_cells_between_dark_membranes():
    data = Cells("train")
    shares, differences = [], []
    for index in range(12):
        sample = data.original(index)
        grey, inside = sample["image"][..., 0], sample["target"] > 0
        assert np.ptp(sample["image"], axis=2).max() == 0
        assert set(np.unique(sample["target"])) == {0, 255}
        assert cells(inside).max() >= 8
        shares.append(inside.mean())
        differences.append(grey[inside].mean() - grey[~inside].mean())
    assert 0.6 < np.mean(shares) < 0.9
    assert min(differences) > 15
    # but a threshold alone does not find them: bodies are as dark, membranes faint in places
    greys = [
        (data.original(k)["image"][..., 0] > t) == (data.original(k)["target"] > 0) for k in range(6) for t in (90,)
    ]
    assert np.mean(greys) < 0.95
