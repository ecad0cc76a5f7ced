"""Quality functions of masks: against slow loops, against scikit-learn, at the ends, and as losses."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from compress.kit.measure.quality import QUALITIES, SOFT, STEEP

NAMES = ("module", "squaring", "percent", "iou", "iou2")


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    mask = random.random((3, 1, 7, 9))
    truth = (random.random((3, 1, 7, 9)) > 0.3).astype(float)
    return torch.tensor(mask), torch.tensor(truth)


def by_loop(name, mask, truth):
    """One image, pixel by pixel."""
    pixels = [(float(p), float(t)) for p, t in zip(mask.flatten(), truth.flatten(), strict=True)]
    if name == "module":
        return sum(abs(p - t) for p, t in pixels) / len(pixels)
    if name == "squaring":
        return sum((p - t) ** 2 for p, t in pixels) / len(pixels)
    if name == "percent":
        return sum((p > 0.5) != (t > 0.5) for p, t in pixels) / len(pixels)
    overlap = (sum(p * t for p, t in pixels) + 1) / (sum(p + t - p * t for p, t in pixels) + 1)
    return 1 - overlap ** (2 if name == "iou2" else 1)


def test_the_five_functions_of_the_specification_are_there():
    assert tuple(QUALITIES) == tuple(SOFT) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_image_gets_its_own_error(name, pair):
    found = QUALITIES[name](*pair)
    wanted = [by_loop(name, mask, truth) for mask, truth in zip(*pair, strict=True)]
    assert found.shape == (3,)
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


def test_percent_and_iou_of_cut_masks_are_scikit_learn_s(pair):
    mask, truth = (pair[0] > 0.5).double(), pair[1]
    a, b = mask[0].flatten().int().numpy(), truth[0].flatten().int().numpy()
    assert QUALITIES["percent"](mask, truth)[0].item() == pytest.approx(1 - sklearn.metrics.accuracy_score(b, a))
    exact = 1 - sklearn.metrics.jaccard_score(b, a)
    assert QUALITIES["iou"](mask, truth)[0].item() == pytest.approx(exact, abs=1 / a.size)  # the ones in it
    large = [plane.repeat_interleave(40, 2).repeat_interleave(40, 3) for plane in (mask, truth)]
    assert QUALITIES["iou"](*large)[0].item() == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("functions", [QUALITIES, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("name", NAMES)
def test_errors_lie_between_the_perfect_and_the_opposite_mask(functions, name, pair):
    truth = pair[1].repeat(1, 1, 20, 20)
    right, wrong = functions[name](truth, truth), functions[name](1 - truth, truth)
    assert right.max().item() == pytest.approx(0, abs=1e-4)  # the steep sigmoid of the soft share is 5e-5 at its ends
    assert wrong.min().item() == pytest.approx(1, abs=1e-3)
    between = functions[name](pair[0].repeat(1, 1, 20, 20), truth)
    assert ((between > right) & (between < wrong)).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_mask_of_an_empty_truth_is_perfect(name):
    nothing = torch.zeros(2, 1, 4, 4)
    assert QUALITIES[name](nothing, nothing).tolist() == [0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_the_soft_form_s_slope_is_that_of_finite_differences(name, pair):
    mask = pair[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: SOFT[name](m, pair[1]), mask, eps=1e-6)
    SOFT[name](mask, pair[1]).mean().backward()
    # a pixel of a cell only gains by being surer, a membrane's by being less so
    assert (mask.grad[pair[1] > 0.5] < 0).all()
    assert (mask.grad[pair[1] < 0.5] > 0).all()


def test_the_soft_share_nears_the_hard_one_away_from_the_threshold(pair):
    truth = pair[1]
    sure = (pair[0] > 0.5).double() * 0.8 + 0.1
    assert SOFT["percent"](sure, truth).tolist() == pytest.approx(QUALITIES["percent"](sure, truth).tolist(), abs=1e-3)
    right = truth * 0.8 + 0.1  # every pixel is on the right side of the threshold, and 0.1 off
    assert SOFT["percent"](right, truth).max() < 1e-3
    assert SOFT["module"](right, truth).tolist() == pytest.approx([0.1] * 3)
    half = torch.full_like(truth, 0.6)
    at = 1 / (1 + np.exp(-STEEP * 0.1))
    assert SOFT["percent"](half, truth)[0].item() == pytest.approx(
        float(np.mean(np.abs(at - truth[0].numpy()))), abs=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened(name, pair):
    mask, truth = (part.bfloat16() for part in pair)
    error = SOFT[name](mask, truth)
    assert error.dtype == torch.float32
    assert error.tolist() == pytest.approx(SOFT[name](mask.double(), truth.double()).tolist(), abs=1e-5)
