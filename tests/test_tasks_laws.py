"""The laws every member of the tasks room keeps."""

import math

import numpy as np
import pytest
import torch
from distilling import distil
from skimage.color import rgb2lab

from compress.kit.data.sets import Batches
from compress.tasks import TASKS

SIDE = 32


@pytest.fixture(scope="module", params=TASKS.names())
def task(request):
    return TASKS.get(request.param)


@pytest.fixture(scope="module")
def data(task):
    return task.open(["builtin"], "val")


@pytest.fixture(scope="module")
def batch(task, data):
    nearest = task.output.color == "classes"
    return Batches(data, task.input, SIDE, batch=2, stop=1, augment=None, workers=0, target_nearest=nearest).at(0)


def outputs(task, seed, levels=3, dtype=torch.float32):
    """Raw outputs of a made-up network with deep supervision, the coarser ones smaller."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, task.output.channels, SIDE >> level, SIDE >> level) for level in range(levels)]
    return [(3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]


def perfect(task, target):
    """The picture of a network that knows the label."""
    if task.output.color == "classes":
        return (np.arange(task.output.channels)[:, None, None] == target).astype(np.float32)
    if task.output.color == "ab":
        return np.moveaxis(rgb2lab(target)[..., 1:], -1, 0).astype(np.float32) / 128
    planes = target[None] if target.ndim == 2 else np.moveaxis(target, -1, 0)
    low, high = task.output.low, task.output.high
    return (planes.astype(np.float32) / 255) * (high - low) + low


def rivals(task, shape):
    """Predictions no better than chance: noise, and constants at the ends and the middle."""
    low, high = task.output.low, task.output.high
    noise = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    return [noise, *(np.full(shape, value, np.float32) for value in (low, high, (low + high) / 2))]


def assert_learnable(parts, tensors):
    assert parts["loss"].shape == ()
    assert parts["loss"].dtype == torch.float32
    assert all(torch.isfinite(part).all() for part in parts.values())
    parts["loss"].backward()
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert tensors[0].grad.abs().sum() > 0  # the output that ships always learns


def test_it_is_named_after_its_file_and_says_what_it_is(task):
    assert task.name in TASKS
    assert TASKS.get(task.name) is task
    assert TASKS.help(task.name)


def test_its_specs_agree_with_themselves(task):
    assert len(task.input.mean) == len(task.input.std) == task.input.channels
    assert all(std > 0 for std in task.input.std)
    assert task.output.low < task.output.high
    assert task.size % 32 == 0


def test_its_metrics_start_with_the_loss_and_have_units(task):
    names = [metric.name for metric in task.metrics]
    assert names[0] == "loss"
    assert task.metrics[0].better == "lower"
    assert len(set(names)) == len(names)
    assert "images" not in names
    assert all(metric.unit and metric.help for metric in task.metrics)


def test_its_data_has_a_target_at_the_photo_s_size(data):
    sample = data.original(0)
    assert sample["image"].dtype == sample["target"].dtype == np.uint8
    assert sample["image"].shape[:2] == sample["target"].shape[:2]


def test_another_split_is_other_data(task, data):
    assert task.open(["builtin"], "test").fingerprint != data.fingerprint
    assert task.open(["builtin"], "val").fingerprint == data.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_random_outputs_can_be_learned_from(task, batch, dtype):
    raw = outputs(task, 1, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        parts = task.loss(raw, batch)
    assert_learnable(parts, raw)


@pytest.mark.parametrize("T", [1.0, 2.0, 7.0])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_distillation_loss_can_be_learned_from(task, batch, T, labelled):
    student, teacher = outputs(task, 1), [t.detach() for t in outputs(task, 2)]
    known = batch if labelled else {"image": batch["image"]}
    assert_learnable(distil(task, student, teacher, known, T), student)


@pytest.mark.parametrize(("levels", "T"), [(1, 1.0), (2, 2.0)])  # a picture alone may have no temperature
def test_distillation_accepts_fewer_or_more_levels(task, batch, levels, T):
    few, many = outputs(task, 1, levels=levels), outputs(task, 2, levels=3)
    assert_learnable(distil(task, few, [t.detach() for t in many], batch, T), few)
    assert_learnable(distil(task, many, [t.detach() for t in few], batch, T), many)


def test_a_student_like_its_teacher_costs_less(task, batch):
    teacher = [t.detach() for t in outputs(task, 2)]
    photos = {"image": batch["image"]}
    same = distil(task, [t.clone() for t in teacher], teacher, photos, 2.0)["loss"]
    other = distil(task, outputs(task, 1), teacher, photos, 2.0)["loss"]
    assert same.item() == pytest.approx(0.0, abs=1e-5)
    assert same < other


def test_losses_leave_what_they_were_handed(task, batch):
    student, teacher = outputs(task, 1), [t.detach() for t in outputs(task, 2)]
    kept = [t.detach().clone() for t in (*student, *teacher, *batch.values())]
    task.loss(student, batch)
    distil(task, student, teacher, batch, 2.0)
    assert all(torch.equal(a, b) for a, b in zip((*student, *teacher, *batch.values()), kept, strict=True))


def test_activate_keeps_the_shape_and_the_range(task):
    raw = torch.cat([outputs(task, 3)[0].detach(), torch.full((1, task.output.channels, SIDE, SIDE), 1e4)])
    for values in (raw, -raw):
        picture = task.activate(values)
        assert picture.shape == values.shape
        assert task.output.low <= picture.min().item() <= picture.max().item() <= task.output.high


def test_no_prediction_scores_better_than_the_perfect_one(task, data):
    target = data.original(0)["target"]
    best = perfect(task, target)
    ideal = task.summarize([task.score(best, target)])
    for rival in rivals(task, (task.output.channels, SIDE, SIDE)):
        found = task.summarize([task.score(rival, target)])
        for metric in task.metrics:
            sign = {"lower": 1, "higher": -1, "none": 0}[metric.better]
            assert sign * ideal[metric.name] <= sign * found[metric.name] + 1e-9, metric.name
        assert ideal["loss"] < found["loss"]


def test_a_score_leaves_what_it_was_handed(task, data):
    target = data.original(0)["target"]
    prediction = rivals(task, (task.output.channels, SIDE, SIDE))[0]
    kept = prediction.copy(), target.copy()
    task.score(prediction, target)
    assert np.array_equal(prediction, kept[0])
    assert np.array_equal(target, kept[1])


def test_the_summary_has_every_metric_and_the_count(task, data):
    scores = []
    for index in range(3):
        target = data.original(index)["target"]
        scores.append(task.score(rivals(task, (task.output.channels, SIDE, SIDE))[index], target))
    summary = task.summarize(scores)
    assert list(summary) == [*(metric.name for metric in task.metrics), "images"]
    assert summary["images"] == 3
    assert all(type(value) is float and math.isfinite(value) for value in summary.values())
    assert type(scores[0]["loss"]) is float


def test_pictures_have_the_size_of_the_photo(task):
    photo = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    pictures = task.pictures(photo, rivals(task, (task.output.channels, SIDE, SIDE))[0])
    assert pictures
    assert {picture.size for picture in pictures.values()} == {(70, 45)}
