"""The membrane networks, the discriminator that learns a quality function, and what a network learns from it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.formats.onnx import Onnx, OnnxRunner
from compress.kit.data.cells import Cells
from compress.kit.data.sets import Batches
from compress.kit.measure.quality import QUALITIES
from compress.kit.nets.critic import NAME, Critic, examples, seed_of
from compress.kit.nets.membrane import ErrorJudge
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("membrane")
NAMES = ("membrane_gan", "membrane_small")


@pytest.fixture(scope="module")
def batch():
    """Truths that are soft along borders, as augmentation leaves them."""
    return Batches(Cells("train"), TASK.input, 32, batch=4, stop=1, augment=None, workers=0).at(0)


def crisp(batch):
    return (batch["target"] > 0.5).float()


def lesson(**flags):
    return find_network("membrane_gan").teach(TASK, Cells("train"), **flags)


def parameters(widths):
    """Of the U-Net, with one input and output channel, by formula: weights, and batch norms with 4 numbers less 2."""

    def conv(a, b, kernel=3):
        return kernel * kernel * a * b + b

    down = sum(conv(a, b) + conv(b, b) + 4 * b for a, b in zip((1, *widths), widths, strict=False))
    up = sum(conv(a, b, 2) + conv(2 * b, b) + conv(b, b) + 4 * b for b, a in pairwise(widths))
    return down + up + conv(widths[0], 1, 1)


def test_parameters_are_those_of_the_formula_and_the_student_has_a_tenth():
    teacher, student = (find_network(name) for name in NAMES)
    assert teacher.parameters == parameters((32, 64, 128, 256, 512)) == 7_765_409
    assert student.parameters == parameters((8, 16, 40, 80, 160)) <= teacher.parameters / 10
    assert teacher.student == student.name


@pytest.mark.parametrize("name", NAMES)
def test_inside_it_leaks_and_its_head_is_raw(name):
    net = find_network(name).build(width=8)
    kinds = {type(part) for part in net.modules()}
    assert torch.nn.LeakyReLU in kinds
    assert not kinds & {torch.nn.ReLU, torch.nn.Tanh}
    assert isinstance(net.head, torch.nn.Conv2d)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 31)], ids=str)
def test_any_size_comes_back(name, size):
    net = find_network(name).build(width=8).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 1, *size))[0].shape == (1, 1, *size)


@pytest.mark.parametrize("name", NAMES)
def test_every_branch_it_names_is_there(name):
    network = find_network(name)
    net = network.build(width=8)
    assert network.branches == ("up4:1", "up3:1", "up2:1", "up1:1", "bottom")
    assert all(net.get_submodule(branch.partition(":")[0]) for branch in network.branches)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_agrees_at_odd_sizes(name, tmp_path):
    torch.manual_seed(0)
    net = Shipped(find_network(name).build(width=8), TASK.activate).eval()
    spec = replace(TASK.input, height=32, width=32)
    export = Onnx().write(net, tmp_path / "net.onnx", input=spec, output=TASK.output, size=(32, 32))
    assert export.dynamic, export.reason
    runner = OnnxRunner(tmp_path / "net.onnx", threads=1)
    for seed, size in enumerate([(37, 53), (16, 16)]):
        image = np.random.default_rng(seed).standard_normal((1, 1, *size), np.float32)
        with torch.no_grad():
            assert np.abs(runner(image) - net(torch.from_numpy(image)).numpy()).max() < 1e-4
    runner.close()


def test_alone_it_minimises_the_quality_function(batch):
    raw = torch.randn(4, 1, 32, 32, requires_grad=True)
    for quality in ("module", "squaring", "iou", "iou2"):
        made = lesson(gan=False, quality=quality)
        wanted = QUALITIES[quality]((torch.tanh(raw) + 1) / 2, crisp(batch)).mean().item()
        assert made.loss((raw,), batch)["loss"].item() == pytest.approx(wanted, rel=1e-5)
        assert not made.rivals
    lesson(gan=False, quality="percent").loss((raw,), batch)["loss"].backward()  # the share itself has no slope
    assert raw.grad.abs().sum() > 0


def test_in_the_gan_it_minimises_the_predicted_error_and_nothing_else(batch):
    torch.manual_seed(0)
    raw = torch.randn(4, 1, 32, 32, requires_grad=True)
    made = lesson()
    judge = made.rivals[NAME].build()
    own = made.loss((raw,), batch)
    assert own["loss"].item() == 0
    told = made.rivals[NAME].pressure({NAME: judge}, (raw,), batch)
    predicted = judge(batch["image"], torch.tanh(raw)).mean().item()
    assert told["loss"].item() == told["predicted"].item() == pytest.approx(predicted, rel=1e-4)
    true = QUALITIES["iou2"]((torch.tanh(raw) + 1) / 2, crisp(batch)).mean().item()
    assert told["true"].item() == pytest.approx(true, rel=1e-5) == own["error"].item()
    (own["loss"] + told["loss"]).backward()
    assert (raw.grad.flatten(1).abs().sum(1) > 0).all()
    some = lesson(supervised=0.25).loss((raw,), batch)
    assert some["loss"].item() == pytest.approx(0.25 * true, rel=1e-5)


@pytest.mark.parametrize("quality", list(QUALITIES))
def test_the_discriminator_learns_the_errors_of_true_spoilt_and_made_masks(batch, quality):
    torch.manual_seed(0)
    judge, rival = ErrorJudge((8, 8)), Critic(quality).rival()
    mask = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = {}

    def spy(image, masks):
        seen["masks"], seen["told"] = (masks + 1) / 2, judge(image, masks)
        return seen["told"]

    loss = rival.loss({NAME: spy}, (torch.atanh(2 * mask - 1),), batch)["loss"]
    truth = crisp(batch)
    wanted = [
        [QUALITIES[quality](m[None, None], t[None]).item() for m in ms]
        for ms, t in zip(seen["masks"], truth, strict=True)
    ]
    assert loss.item() == pytest.approx(((seen["told"] - torch.tensor(wanted)) ** 2).mean().item(), rel=1e-3)
    assert torch.equal(seen["masks"][:, :1], truth)
    assert not torch.equal(truth, batch["target"])
    assert torch.allclose(seen["masks"][:, 1:2], mask, atol=1e-5)
    means = np.mean(wanted, axis=0)
    assert means[0] == pytest.approx(0, abs=1e-6)
    assert np.ptp(means) > 0.2
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in judge.parameters())


def test_examples_follow_the_seed_alone_and_stay_masks(batch):
    mask, truth = torch.rand(4, 1, 32, 32), crisp(batch)
    first, second, other = (examples(mask, truth, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sum(not torch.equal(a, b) for a, b in zip(first, other, strict=True)) >= 4
    assert all(example.shape == truth.shape for example in first)
    assert all(0 <= example.min() <= example.max() <= 1 for example in first)
    assert seed_of(batch["image"]) == seed_of(batch["image"].clone()) != seed_of(batch["image"].flip(3))


def test_the_penalty_is_half_the_squared_slope_at_true_masks(batch):
    torch.manual_seed(0)
    judge = ErrorJudge((8, 8)).eval()
    raw = (torch.randn(4, 1, 32, 32),)
    plain = Critic().rival().loss({NAME: judge}, raw, batch)["loss"].item()
    found = Critic(gradient_penalty=3.0).rival().loss({NAME: judge}, raw, batch)
    slopes = []
    for image, target in zip(batch["image"], crisp(batch), strict=True):
        truth = target.clone().requires_grad_()
        judge(image[None], 2 * truth[None] - 1).backward()
        slopes.append(truth.grad.square().sum().item() / 2)
    assert found["penalty"].item() == pytest.approx(np.mean(slopes), rel=1e-3)
    assert found["loss"].item() == pytest.approx(plain + 3 * np.mean(slopes), rel=1e-3)
    found["loss"].backward()
    assert all(p.grad is not None for p in judge.unet.parameters())


def test_spectral_norm_divides_by_the_largest_singular_value():
    torch.manual_seed(0)
    judge = ErrorJudge((8, 8), spectral_norm=True)
    for _ in range(30):  # its power iteration takes a step a forward
        judge(torch.randn(2, 1, 16, 16), torch.randn(2, 3, 16, 16))
    first = judge.encoding[0][0].weight
    assert np.linalg.svd(first.detach().flatten(1).numpy(), compute_uv=False)[0] == pytest.approx(1, rel=0.02)


def test_the_discriminator_takes_any_size_and_each_mask_alone():
    torch.manual_seed(0)
    judge = ErrorJudge((8, 8)).eval()
    for size in ((8, 8), (17, 40)):
        image, masks = torch.randn(2, 1, *size), torch.rand(2, 3, *size) * 2 - 1
        told = judge(image, masks)
        assert told.shape == (2, 3)
        assert ((told > 0) & (told < 1)).all()
        alone = judge(image[1:], masks[1:, 2:])
        assert told[1, 2].item() == pytest.approx(alone.item(), rel=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        {"supervised": -1.0},
        {"supervised": float("nan")},
        {"gradient_penalty": -1.0},
        {"gan": False, "supervised": 0.5},
        {"gan": False, "spectral_norm": True},
    ],
    ids=str,
)
def test_weights_that_can_t_be_are_refused(flags):
    with pytest.raises(UsageError):
        lesson(**flags)


def test_what_decides_a_lesson_is_in_its_settings():
    one, other = lesson(), lesson(quality="percent", gradient_penalty=10.0)
    assert one.settings != other.settings
    assert one.rivals[NAME].settings != other.rivals[NAME].settings
    assert one.ema > 0
