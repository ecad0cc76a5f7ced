"""Losses against slow numpy loops, and what they tend to."""

import math

import numpy as np
import pytest
import torch

from compress.kit.measure import losses

N, C, H, W = 2, 3, 4, 5


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def tensor(array):
    return torch.tensor(array, dtype=torch.float64)


def logits(rng, *shape):
    return rng.normal(0, 3, shape or (N, C, H, W))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def slow_bce(z, t):
    total = 0.0
    for a, b in zip(z.ravel(), t.ravel(), strict=True):
        p = sigmoid(a)
        total -= b * math.log(p) + (1 - b) * math.log(1 - p)
    return total / z.size


def slow_binary_kl(s, t, T):
    total = 0.0
    for a, b in zip(s.ravel(), t.ravel(), strict=True):
        q, p = sigmoid(a / T), sigmoid(b / T)
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return T * T * total / s.size


def slow_softmax(values, T):
    powers = [math.exp(v / T) for v in values]
    return [power / sum(powers) for power in powers]


def slow_kl(student, teacher, T):
    q, p = slow_softmax(student, T), slow_softmax(teacher, T)
    return sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))


def test_binary_cross_entropy_is_the_mean_over_every_element(rng):
    z, t = logits(rng), rng.random((N, C, H, W))
    assert losses.binary_cross_entropy(tensor(z), tensor(t)).item() == pytest.approx(slow_bce(z, t))


def test_binary_cross_entropy_stays_finite_on_saturated_logits():
    value = losses.binary_cross_entropy(torch.full((1, 1, 2, 2), -1e4), torch.ones(1, 1, 2, 2))
    assert value.item() == pytest.approx(1e4)


def test_side_outputs_are_summed_with_their_weights(rng):
    outputs, target = [logits(rng) for _ in range(3)], rng.random((N, C, H, W))
    weights = [1.0, 0.5, 0.25]
    slow = sum(w * slow_bce(o, target) for w, o in zip(weights, outputs, strict=True))
    tensors = [tensor(o) for o in outputs]
    assert losses.side_output_cross_entropy(tensors, tensor(target), weights).item() == pytest.approx(slow)
    unweighted = sum(slow_bce(o, target) for o in outputs)
    assert losses.side_output_cross_entropy(tensors, tensor(target)).item() == pytest.approx(unweighted)


def test_small_side_outputs_are_upsampled():
    flat = torch.full((1, 1, 3, 3), 0.7)
    target = torch.ones(1, 1, 12, 12)
    assert losses.side_output_cross_entropy([flat], target).item() == pytest.approx(-math.log(sigmoid(0.7)))


def test_side_outputs_want_one_weight_each():
    with pytest.raises(AssertionError, match="1 weights for 2 outputs"):
        losses.side_output_cross_entropy([torch.zeros(1, 1, 2, 2)] * 2, torch.zeros(1, 1, 2, 2), [1.0])


@pytest.mark.parametrize("T", [1.0, 2.0, 7.0])
def test_tempered_binary_kl_by_definition(rng, T):
    s, t = logits(rng), logits(rng)
    assert losses.tempered_binary_kl(tensor(s), tensor(t), T).item() == pytest.approx(slow_binary_kl(s, t, T))


@pytest.mark.parametrize("T", [1.0, 2.0, 7.0])
def test_tempered_class_kl_sums_classes_and_averages_pixels(rng, T):
    s, t = logits(rng), logits(rng)
    pixels = [(n, y, x) for n in range(N) for y in range(H) for x in range(W)]
    slow = T * T * sum(slow_kl(s[n, :, y, x], t[n, :, y, x], T) for n, y, x in pixels) / len(pixels)
    assert losses.tempered_class_kl(tensor(s), tensor(t), T).item() == pytest.approx(slow)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_channel_wise_sums_pixels_and_averages_channels(rng, T):
    s, t = logits(rng), logits(rng)
    planes = [(n, c) for n in range(N) for c in range(C)]
    slow = T * T * sum(slow_kl(s[n, c].ravel(), t[n, c].ravel(), T) for n, c in planes) / len(planes)
    assert losses.channel_wise_distillation(tensor(s), tensor(t), T).item() == pytest.approx(slow)


def test_channel_wise_is_blind_to_a_constant(rng):
    s = tensor(logits(rng))
    assert losses.channel_wise_distillation(s + 5.0, s, 2.0).item() == pytest.approx(0.0, abs=1e-9)


def test_soft_iou_by_loops(rng):
    z, t = logits(rng), rng.random((N, C, H, W))
    terms = []
    for n in range(N):
        inter = union = 0.0
        for a, b in zip(z[n].ravel(), t[n].ravel(), strict=True):
            p = sigmoid(a)
            inter, union = inter + p * b, union + p + b - p * b
        terms.append(1 - (inter + 1) / (union + 1))
    assert losses.soft_iou_loss(tensor(z), tensor(t)).item() == pytest.approx(sum(terms) / N)


def test_soft_iou_pushes_down_where_the_mask_is_empty():
    z = torch.zeros(1, 1, 4, 4, requires_grad=True)
    losses.soft_iou_loss(z, torch.zeros(1, 1, 4, 4)).backward()
    assert (z.grad > 0).all()


def slow_ssim(a, b, window):
    """Wang et al. 2004, equation 13, one pixel at a time."""
    reach = window // 2
    steps = np.arange(-reach, reach + 1)
    line = np.exp(-(steps**2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    a, b = (np.pad(plane, reach, mode="reflect") for plane in (a, b))
    values = []
    for y in range(a.shape[0] - 2 * reach):
        for x in range(a.shape[1] - 2 * reach):
            u, v = (plane[y : y + window, x : x + window] for plane in (a, b))
            mu, nu = (weight * u).sum(), (weight * v).sum()
            var_u, var_v = (weight * (u - mu) ** 2).sum(), (weight * (v - nu) ** 2).sum()
            both = (weight * (u - mu) * (v - nu)).sum()
            top = (2 * mu * nu + 0.01**2) * (2 * both + 0.03**2)
            values.append(top / ((mu**2 + nu**2 + 0.01**2) * (var_u + var_v + 0.03**2)))
    return sum(values) / len(values)


@pytest.mark.parametrize("window", [5, 11])
def test_ssim_loss_by_loops(rng, window):
    a = rng.random((14, 13))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    fast = losses.ssim_loss(tensor(a)[None, None], tensor(b)[None, None], window)
    assert fast.item() == pytest.approx(1 - slow_ssim(a, b, window), rel=1e-6)


def test_ssim_loss_of_a_picture_and_itself_is_zero(rng):
    a = tensor(rng.random((1, 3, 16, 16)))
    assert losses.ssim_loss(a, a).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.ssim_loss(a, 1 - a).item() > 1.0


def test_feature_l2_is_a_mean_and_resizes_the_teacher(rng):
    s, t = logits(rng), logits(rng)
    slow = sum((a - b) ** 2 for a, b in zip(s.ravel(), t.ravel(), strict=True)) / s.size
    assert losses.feature_l2(tensor(s), tensor(t)).item() == pytest.approx(slow)
    small, large = torch.zeros(1, 2, 3, 3), torch.full((1, 2, 9, 9), 2.0)
    assert losses.feature_l2(small, large).item() == pytest.approx(4.0)


def test_binary_kl_tends_to_an_eighth_of_the_squared_difference(rng):
    s, t = logits(rng), logits(rng)
    limit = ((t - s) ** 2).mean() / 8
    errors = [abs(losses.tempered_binary_kl(tensor(s), tensor(t), T).item() - limit) for T in (10.0, 100.0, 1000.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4 * limit


def test_binary_kl_gradient_tends_to_a_quarter_of_the_difference(rng):
    s, t = tensor(logits(rng)).requires_grad_(), tensor(logits(rng))
    (losses.tempered_binary_kl(s, t, 1000.0) * s.numel()).backward()
    assert torch.allclose(s.grad, (s - t).detach() / 4, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.tempered_class_kl, losses.channel_wise_distillation])
def test_t_squared_keeps_the_gradient_of_softmaxes_as_t_grows(rng, loss):
    student, teacher = 0.1 * logits(rng), 0.1 * logits(rng)
    sizes = []
    for T in (10.0, 1000.0):
        s = tensor(student).requires_grad_()
        loss(s, tensor(teacher), T).backward()
        sizes.append(s.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("T", [1.0, 2.0, 16.0])
def test_binary_kl_has_the_gradient_size_of_hinton(rng, T):
    s, t = tensor(logits(rng)).requires_grad_(), tensor(logits(rng))
    (losses.tempered_binary_kl(s, t, T) * s.numel()).backward()
    expected = T * (torch.sigmoid(s / T) - torch.sigmoid(t / T))
    assert torch.allclose(s.grad, expected.detach())


KLS = [losses.tempered_binary_kl, losses.tempered_class_kl, losses.channel_wise_distillation]


@pytest.mark.parametrize("loss", KLS)
def test_a_student_equal_to_its_teacher_costs_nothing(rng, loss):
    s = tensor(logits(rng)).requires_grad_()
    value = loss(s, s.detach().clone(), 2.0)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert s.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("loss", KLS)
def test_kl_is_finite_for_saturated_float32_logits(loss):
    s = torch.tensor([[[[500.0, -500.0]], [[-500.0, 500.0]]]], requires_grad=True)
    value = loss(s, -s.detach(), 2.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(s.grad).all()
    assert value.item() > 100


BOTH = [
    *KLS,
    lambda s, t, T: losses.feature_l2(s, t),
    lambda s, t, T: losses.binary_cross_entropy(s, t.sigmoid()),
    lambda s, t, T: losses.soft_iou_loss(s, t.sigmoid()),
    lambda s, t, T: losses.ssim_loss(s.sigmoid(), t.sigmoid(), 5),
    lambda s, t, T: losses.side_output_cross_entropy([s, s[..., ::2, ::2]], t.sigmoid()),
]


@pytest.mark.parametrize("loss", BOTH)
def test_half_precision_networks_get_float32_losses(rng, loss):
    s, t = (torch.tensor(logits(rng, 1, 2, 8, 8)).to(torch.bfloat16) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(s.requires_grad_(), t, 2.0)
        value.backward()
    assert value.dtype == torch.float32
    assert s.grad.dtype == torch.bfloat16
    exact = loss(s.detach().double(), t.double(), 2.0).item()
    assert value.item() == pytest.approx(exact, rel=0.02)  # sigmoid in the lambdas above runs in bfloat16


@pytest.mark.parametrize("loss", BOTH)
def test_no_gradient_reaches_the_teacher(rng, loss):
    s, t = (tensor(logits(rng, 1, 2, 8, 8)).requires_grad_() for _ in range(2))
    loss(s, t, 2.0).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None


@pytest.mark.parametrize("loss", BOTH)
def test_gradients_agree_with_finite_differences(rng, loss):
    s, t = tensor(logits(rng, 1, 2, 4, 4)).requires_grad_(), tensor(logits(rng, 1, 2, 4, 4))
    assert torch.autograd.gradcheck(lambda z: loss(z, t, 2.0), (s,))
