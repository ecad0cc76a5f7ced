"""Segmentation: scores, counts, pictures and the baseline against slow loops, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

from compress.core.errors import DataError, UsageError
from compress.kit.data.classes import (
    VOID,
    Classed,
    class_dice,
    class_iou,
    confusion,
    mean_of_known,
    palette,
    pixel_accuracy,
)
from compress.kit.data.classscenes import LABELS, ClassScenes
from compress.kit.data.sets import Batches, Dataset
from compress.tasks import TASKS

TASK = TASKS.get("segmentation")


def made_up(seed=0, classes=4, void=0.2, shape=(3, 9, 7)):
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, shape)
    target[random.random(shape) < void] = VOID
    logits = random.normal(0, 2, (shape[0], classes, *shape[1:]))
    return torch.tensor(logits), torch.tensor(target)


def pixels(logits, target):
    """(true class, probabilities) of every labelled pixel, one at a time."""
    for n, y, x in np.ndindex(*target.shape):
        if target[n, y, x] != VOID:
            row = logits[n, :, y, x].numpy()
            shares = np.exp(row - row.max())
            yield int(target[n, y, x]), shares / shares.sum()


def test_confusion_counts_what_a_loop_counts():
    random = np.random.default_rng(0)
    target, found = random.integers(0, 5, (2, 20, 30))
    target[random.random(target.shape) < 0.1] = VOID
    wanted = np.zeros((5, 5))
    for t, p in zip(target.ravel(), found.ravel(), strict=True):
        if t != VOID:
            wanted[t, p] += 1
    assert np.array_equal(confusion(found, target.astype(np.uint8), 5), wanted)


def test_measures_are_those_of_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    random = np.random.default_rng(1)
    target = random.integers(0, 6, (4, 16, 16))
    found = np.where(random.random(target.shape) < 0.6, target, random.integers(0, 6, target.shape))
    target[random.random(target.shape) < 0.1] = VOID
    counts = confusion(found, target.astype(np.uint8), 6)
    pair = torch.tensor(found), torch.tensor(target)
    jaccard = MulticlassJaccardIndex(6, average="none", ignore_index=VOID)
    dice = MulticlassF1Score(6, average="none", ignore_index=VOID)
    accuracy = MulticlassAccuracy(6, average="micro", ignore_index=VOID)
    np.testing.assert_allclose(class_iou(counts), jaccard(*pair), rtol=1e-6)
    np.testing.assert_allclose(class_dice(counts), dice(*pair), rtol=1e-6)
    assert pixel_accuracy(counts) == pytest.approx(accuracy(*pair).item())


def test_a_class_that_is_nowhere_does_not_count():
    counts = np.array([[6.0, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert math.isnan(class_iou(counts)[2])
    assert mean_of_known(class_iou(counts)) == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert mean_of_known(class_iou(np.zeros((3, 3)))) == 0


def scored(logits, target):
    scores = []
    for one, truth in zip(torch.softmax(logits, 1).float().numpy(), target.numpy().astype(np.uint8), strict=True):
        scores.append(TASK.score(one, truth))
    return scores, TASK.summarize(scores)


def test_scores_are_those_of_a_loop_over_pixels():
    logits, target = made_up(5, shape=(4, 8, 6))
    scores, summary = scored(logits, target)
    each = [list(pixels(logits[n : n + 1], target[n : n + 1])) for n in range(4)]
    wanted = [np.mean([-math.log(p[c]) for c, p in seen]) for seen in each]
    everything = [pair for seen in each for pair in seen]
    onehot = np.eye(4)
    assert [score["loss"] for score in scores] == pytest.approx(wanted, rel=1e-5)
    assert summary["loss"] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert summary["mae"] == pytest.approx(np.mean([np.abs(p - onehot[c]).sum() / 2 for c, p in everything]), rel=1e-5)
    assert summary["pixel_accuracy"] == pytest.approx(np.mean([p.argmax() == c for c, p in everything]))
    ious = []
    for k in range(4):
        both = sum(c == k == p.argmax() for c, p in everything)
        ious.append(both / sum(k in (c, p.argmax()) for c, p in everything))
    assert summary["miou"] == pytest.approx(np.mean(ious))


def test_miou_is_of_the_set_and_not_the_mean_of_the_images():
    small = np.array([[0, 1], [1, VOID]], np.uint8)
    large = np.zeros((8, 8), np.uint8)
    large[:3] = 1
    half = np.stack([np.full((8, 8), 0.9, np.float32), np.full((8, 8), 0.1, np.float32)])
    scores = [TASK.score(TASK.as_prediction(small)[:2], small), TASK.score(half, large)]
    counts = np.array([[1 + 40, 0], [24, 2]])
    assert TASK.summarize(scores)["miou"] == pytest.approx(np.mean([41 / 65, 2 / 26]))
    assert np.array_equal(sum(s["confusion"] for s in scores).reshape(2, 2), counts)


def test_an_image_of_one_class_is_dead_only_where_the_truth_has_several():
    flat = np.stack([np.full((4, 4), value, np.float32) for value in (0.2, 0.5, 0.3)])
    several, one = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    several[:2] = 2
    one[0] = VOID
    assert TASK.score(flat, several)["dead"] == 1
    assert TASK.score(flat, one)["dead"] == 0
    assert TASK.score(TASK.as_prediction(several), several)["dead"] == 0
    broken = TASK.as_prediction(several)
    broken[0, 0, 0] = np.nan
    assert TASK.score(broken, several)["dead"] == 1


def test_an_image_that_is_void_all_over_scores_nothing():
    void = np.full((5, 4), VOID, np.uint8)
    summary = TASK.summarize([TASK.score(np.full((3, 5, 4), 1 / 3, np.float32), void)])
    assert all(math.isfinite(value) for value in summary.values())
    assert summary["loss"] == summary["mae"] == summary["miou"] == summary["dead_masks"] == 0


def test_a_label_the_network_does_not_have_is_refused():
    with pytest.raises(DataError, match=r"labels 3, wanted 0\.\.2"):
        TASK.score(np.full((3, 2, 2), 1 / 3, np.float32), np.full((2, 2), 3, np.uint8))


def test_the_palette_is_pascal_voc_s():
    colors = palette()
    assert colors[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128]),
        [224, 224, 192],
    ]
    assert len(np.unique(colors, axis=0)) == 256


def test_pictures_show_the_classes_and_void():
    target = np.array([[0, 1], [VOID, 15]], np.uint8)
    photo = np.full((2, 2, 3), 100, np.uint8)
    pictures = TASK.pictures(photo, TASK.as_prediction(target))
    assert next(iter(pictures)) == "mask"
    assert np.array_equal(np.asarray(pictures["mask"]), palette()[target])
    assert np.asarray(pictures["overlay"])[1, 1].tolist() == [146, 114, 114]


def test_built_in_scenes_have_every_class_and_void():
    data = ClassScenes("train")
    seen = np.unique(np.stack([data.original(k)["target"] for k in range(24)]))
    assert seen.tolist() == [*range(len(LABELS)), VOID]
    assert np.array_equal(data.original(3)["image"], ClassScenes("train").original(3)["image"])
    with pytest.raises(UsageError, match="split"):
        ClassScenes("tset")


def test_batches_keep_class_numbers():
    data = TASK.open(["builtin"], "val")
    batch = Batches(data, TASK.input, 32, batch=4, stop=1, workers=0, target_nearest=TASK.nearest).at(0)
    assert batch["target"].dtype == torch.int64
    assert set(batch["target"].unique().tolist()) <= {*range(len(LABELS)), VOID}


def test_the_network_has_the_classes_of_the_data():
    options = TASK.network_options(TASK.open(["builtin"], "val"))
    assert options == {"classes": len(LABELS)}
    assert TASK.output_for(options).channels == len(LABELS)
    assert TASK.output_for({}).channels == TASK.output.channels == 21


class Maps(Dataset):
    """Given class maps, each under a grey photo."""

    names = ("one", "none", "three")
    fingerprint = "maps"

    def __init__(self, *maps):
        self.maps = [np.asarray(one, np.uint8) for one in maps]

    def original(self, index):
        return {"image": np.full((*self.maps[index].shape, 3), 90, np.uint8), "target": self.maps[index]}


COUNTED = Classed(Maps([[0, 0, 0], [0, 1, VOID]], [[VOID] * 3] * 2, [[0, 1, 1], [1, 3, 3]]), tuple("abcd"))


def test_details_tell_the_classes_apart():
    truth = np.array([[0, 0, 0, 1], [1, 3, 3, VOID]], np.uint8)
    found = np.array([[0, 0, 1, 1], [3, 3, 3, 0]], np.uint8)
    prediction = (np.arange(4)[:, None, None] == found).astype(np.float32)
    told = TASK.details([TASK.score(prediction, truth)])
    assert told["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 2]]
    assert told["iou"] == pytest.approx([2 / 3, 1 / 3, None, 2 / 3])
    assert told["dice"] == pytest.approx([4 / 5, 2 / 4, None, 4 / 5])
    assert told["accuracy"] == pytest.approx([2 / 3, 1 / 2, None, 1.0])
    assert told["classes"] == [0, 1, 2, 3]
    assert json.loads(json.dumps(told)) == told


def test_the_baseline_is_the_best_constant():
    baseline = TASK.baseline(COUNTED)
    guess = baseline.guess(np.zeros((20, 30, 3), np.uint8))
    shares = np.mean([[4 / 5, 1 / 5, 0, 0], [1 / 6, 3 / 6, 0, 2 / 6]], axis=0)
    assert guess[:, 0, 0] == pytest.approx(shares, rel=1e-6)

    def loss(constant):
        maps = np.asarray(constant, np.float32)[:, None, None]
        return sum(TASK.score(maps, COUNTED.original(k)["target"])["loss"] for k in range(3))

    best = loss(guess[:, 0, 0])
    for step in np.random.default_rng(0).dirichlet(np.ones(4), 50):
        assert best <= loss(0.95 * shares + 0.05 * step) + 1e-9
    nothing = TASK.baseline(Classed(Maps(*[[[VOID]]] * 3), ("a", "b")))
    assert nothing.guess(np.zeros((1, 1, 3), np.uint8)).ravel().tolist() == [0.5, 0.5]
