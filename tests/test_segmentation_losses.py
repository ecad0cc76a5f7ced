"""What networks of classes are taught with, against slow loops over pixels."""

import json
import math

import numpy as np
import pytest
import torch
from distilling import distil
from test_segmentation import COUNTED, TASK, made_up, pixels

from compress.core.errors import UsageError
from compress.kit.data.classes import (
    VOID,
)
from compress.kit.measure import losses
from compress.kit.measure.classlosses import class_loss, class_weights, focal, one_versus_rest


def test_cross_entropy_is_that_of_a_loop_over_labelled_pixels():
    logits, target = made_up()
    wanted = np.mean([-math.log(p[c]) for c, p in pixels(logits, target)])
    assert losses.class_cross_entropy(logits, target).item() == pytest.approx(wanted, rel=1e-9)


def test_class_weights_weigh_pixels_by_their_true_class():
    logits, target = made_up(1)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    terms = [(float(weights[c]), -math.log(p[c])) for c, p in pixels(logits, target)]
    wanted = sum(w * cost for w, cost in terms) / sum(w for w, _ in terms)
    assert losses.class_cross_entropy(logits, target, weights).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_is_that_of_a_loop(gamma):
    logits, target = made_up(2)
    wanted = np.mean([-((1 - p[c]) ** gamma) * math.log(p[c]) for c, p in pixels(logits, target)])
    assert losses.class_focal_loss(logits, target, gamma).item() == pytest.approx(wanted, rel=1e-9)


def test_dice_loss_is_that_of_a_loop():
    logits, target = made_up(3)
    target[target == 2] = VOID  # a class the batch does not have
    seen = list(pixels(logits, target))
    costs = []
    for k in (0, 1, 3):
        both = sum(p[k] for c, p in seen if c == k)
        sizes = sum(p[k] for _, p in seen) + sum(c == k for c, _ in seen)
        costs.append(1 - (2 * both + 1) / (sizes + 1))
    assert losses.class_dice_loss(logits, target).item() == pytest.approx(np.mean(costs), rel=1e-9)


def test_weighted_focal_loss_is_that_of_a_loop():
    logits, target = made_up(8)
    weights = [0.5, 2.0, 0.0, 1.0]
    terms = [(weights[c], -((1 - p[c]) ** 2) * math.log(p[c])) for c, p in pixels(logits, target)]
    wanted = sum(w * cost for w, cost in terms) / sum(w for w, _ in terms)
    assert focal(logits, target, torch.tensor(weights)).item() == pytest.approx(wanted, rel=1e-6)
    assert focal(logits, target).item() == losses.class_focal_loss(logits, target).item()


def test_one_versus_rest_is_that_of_a_loop():
    logits, target = made_up(9)
    costs = []
    for n, y, x in np.ndindex(*target.shape):
        if target[n, y, x] != VOID:
            for c in range(4):
                p = 1 / (1 + math.exp(-logits[n, c, y, x]))
                costs.append(-math.log(p if c == target[n, y, x] else 1 - p))
    assert one_versus_rest(logits, target).item() == pytest.approx(np.mean(costs), rel=1e-9)


def test_with_two_classes_cross_entropy_is_the_binary_one_of_a_mask():
    logits, target = made_up(10, classes=2, void=0)
    mask = (target == 1).double()
    wanted = torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits[:, 1] - logits[:, 0]), mask)
    assert losses.class_cross_entropy(logits, target).item() == pytest.approx(wanted.item(), rel=1e-9)


VOIDABLE = [losses.class_cross_entropy, losses.class_focal_loss, losses.class_dice_loss, one_versus_rest]


@pytest.mark.parametrize("loss", [*VOIDABLE, lambda x, t: focal(x, t, torch.arange(1.0, 5.0))])
def test_void_pixels_cost_nothing_and_get_no_gradient(loss):
    logits, target = made_up(4)
    logits = logits.float().requires_grad_()
    loss(logits, target).backward()
    void = (target == VOID)[:, None].expand_as(logits)
    assert logits.grad[void].abs().max() == 0
    assert logits.grad[~void].abs().min() > 0
    logits.grad = None
    nothing = loss(logits, torch.full_like(target, VOID))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


def test_median_frequency_weights_even_out_the_classes():
    counts = torch.tensor([100, 0, 10, 1000])
    weights = losses.median_frequency_weights(counts)
    assert weights.tolist() == pytest.approx([1.0, 0.0, 10.0, 0.1])
    assert losses.median_frequency_weights(torch.zeros(3)).tolist() == [0, 0, 0]


def test_distillation_refuses_a_teacher_of_other_classes():
    with pytest.raises(UsageError, match="teacher knows 21 classes, the data set has 6"):
        distil(TASK, [torch.zeros(1, 6, 4, 4)], [torch.zeros(1, 21, 4, 4)], {}, 2.0)


def test_distillation_is_the_tempered_kl_and_the_cross_entropy():
    student, target = made_up(6)
    teacher, _ = made_up(7)
    parts = distil(TASK, [student], [teacher], {"target": target[:, None]}, 3.0)
    s, t = torch.log_softmax(student / 3, 1), torch.log_softmax(teacher / 3, 1)
    kl = 9 * (t.exp() * (t - s)).sum(1).mean()
    hard = np.mean([-math.log(p[c]) for c, p in pixels(student, target)])
    assert parts["kl"].item() == pytest.approx(kl.item(), rel=1e-6)
    assert parts["loss"].item() == pytest.approx(kl.item() + hard, rel=1e-6)


def test_a_lesson_sums_its_losses_over_every_output():
    logits, target = made_up(11, shape=(2, 8, 8))
    batch = {"target": target[:, None]}
    lesson = TASK.teach(COUNTED, losses=("ce", "dice", "focal", "bce", "ce"))
    parts = lesson.loss([logits], batch)
    each = {
        "ce": losses.class_cross_entropy(logits, target),
        "dice": losses.class_dice_loss(logits, target),
        "focal": losses.class_focal_loss(logits, target),
        "bce": one_versus_rest(logits, target),
    }
    assert {name: part.item() for name, part in parts.items() if name != "loss"} == pytest.approx(each, rel=1e-6)
    assert parts["loss"].item() == pytest.approx(sum(part.item() for part in each.values()), rel=1e-6)
    assert lesson.settings == {"losses": ["ce", "dice", "focal", "bce"], "class_weights": []}
    twice = lesson.loss([logits, logits], batch)["loss"]
    assert twice.item() == pytest.approx(parts["loss"].item(), rel=1e-6)
    assert TASK.teach(COUNTED).loss([logits], batch).keys() == {"loss"}
    assert TASK.teach(COUNTED).loss([logits], batch)["loss"].item() == TASK.loss([logits], batch)["loss"].item()


def test_class_weights_are_counted_over_the_training_split():
    assert class_weights(COUNTED, "none") is None
    assert class_weights(COUNTED, "median") == pytest.approx((4 / 5, 1.0, 0.0, 2.0))  # of 5, 4, 0 and 2 pixels
    logits, target = made_up(12)
    lesson = TASK.teach(COUNTED, losses=("ce", "focal"), class_weights="median")
    weights = torch.tensor([0.8, 1.0, 0.0, 2.0])
    parts = lesson.loss([logits], {"target": target[:, None]})
    assert parts["ce"].item() == pytest.approx(losses.class_cross_entropy(logits, target, weights).item(), rel=1e-6)
    assert parts["focal"].item() == pytest.approx(focal(logits, target, weights).item(), rel=1e-6)
    assert json.loads(json.dumps(lesson.settings)) == {"losses": ["ce", "focal"], "class_weights": [0.8, 1.0, 0.0, 2.0]}


def test_losses_that_are_none_are_refused():
    with pytest.raises(UsageError, match="unknown loss 'dise', did you mean 'dice'"):
        TASK.teach(COUNTED, losses=("ce", "dise"))
    with pytest.raises(UsageError, match="no loss"):
        class_loss(())
    with pytest.raises(UsageError, match="unknown weighting"):
        class_weights(COUNTED, "mean")
