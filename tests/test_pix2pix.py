"""The U-Net of pix2pix: its published count and layers, any size, dropout, and the same in ONNX."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.formats.onnx import Onnx
from compress.kit.graph import count_parameters
from compress.kit.lesson import Lesson
from compress.kit.nets.pix2pix import build_pix2pix
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


def small(seed=0, levels=4):
    torch.manual_seed(seed)
    return build_pix2pix(8, levels).eval()


def photo(height, width, count=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_it_has_the_published_count():
    """54.414 M is what the authors' code prints for unet_256; convolutions have no bias, norms scale and shift."""
    down = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    up = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64)]
    norms = [outputs for _, outputs in (*down[1:-1], *up)]
    wanted = sum(a * b * 16 for a, b in (*down, *up)) + 2 * sum(norms) + 128 * 3 * 16 + 3
    with torch.device("meta"):
        found = count_parameters(find_network("pix2pix").build())
    assert found == wanted
    assert f"{found / 1e6:.3f}" == "54.414"


@pytest.mark.parametrize("levels", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (37, 45)], ids=str)
def test_any_size_goes_in_and_comes_out(levels, size):
    with torch.no_grad():
        (raw,) = small(levels=levels)(photo(*size))
    assert raw.shape == (1, 3, *size)
    assert torch.isfinite(raw).all()


def test_a_large_odd_photo_goes_through():
    with torch.no_grad():
        raw = build_pix2pix(4).eval()(photo(767, 1023))[0]
    assert raw.shape == (1, 3, 767, 1023)
    assert torch.isfinite(raw).all()


def test_the_lowest_map_is_one_pixel_at_the_published_size():
    net = build_pix2pix(2).eval()
    seen = []
    net.down8.register_forward_hook(lambda module, given, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        net(photo(256, 256))
    assert seen == [(1, 1)]


def test_dropout_is_in_the_three_lowest_levels_and_in_training_alone():
    net = build_pix2pix(8)
    dropping = [name for name, part in net.named_modules() if isinstance(part, nn.Dropout) and part.p == 0.5]
    assert dropping == ["up8.dropout", "up7.dropout", "up6.dropout"]
    image = photo(32, 32)
    with torch.no_grad():
        assert not torch.equal(net.train()(image)[0], net(image)[0])
        assert torch.equal(net.eval()(image)[0], net(image)[0])


@pytest.mark.parametrize("branch", find_network("pix2pix").branches)
def test_declared_branches_are_called_with_such_an_argument(branch):
    path, _, argument = branch.partition(":")
    net, counted = small(levels=8), []
    net.get_submodule(path).register_forward_hook(lambda module, given, output: counted.append(len(given)))
    with torch.no_grad():
        net(photo(32, 32))
    assert counted[0] > int(argument)


def test_gradient_reaches_every_parameter():
    net = small(levels=5).train()
    net(photo(37, 45, count=2))[0].square().mean().backward()
    assert [path for path, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_onnx_agrees_at_any_size(tmp_path):
    shipped = Shipped(small(levels=3), TASK.activate).eval()
    export = Onnx().write(shipped, tmp_path / "net.onnx", input=TASK.input, output=TASK.output, size=(32, 32), stride=1)
    assert export.dynamic, export.reason
    images = [photo(*size).numpy() for size in [(37, 45), (1, 1), (5, 7), (64, 32)]]
    assert check_parity(shipped, export.path, images, tolerance=1e-4).max_abs < 1e-4


@pytest.mark.parametrize("levels", [1, 11])
def test_levels_that_cannot_be_are_refused(levels):
    with pytest.raises(UsageError, match=f"found {levels}"):
        find_network("pix2pix").build(levels=levels)


def test_it_is_taught_l1_and_a_vanilla_gan_with_one_judge():
    lesson = find_network("pix2pix").teach(TASK, TASK.open(["builtin"], "train"))
    assert isinstance(lesson, Lesson)
    settings = lesson.rivals["discriminator"].settings
    assert (settings["kind"], settings["scales"], settings["matching"], settings["adversarial"]) == (
        "vanilla",
        1,
        0,
        0.01,
    )
    with torch.device("meta"):
        assert f"{count_parameters(lesson.rivals['discriminator'].build()) / 1e6:.3f}" == "2.769"
    raw, target = photo(8, 8), torch.rand(1, 3, 8, 8)
    wanted = np.abs((np.tanh(raw.numpy()) + 1) / 2 - target.numpy()).mean()
    found = lesson.loss([raw], {"image": raw, "target": target})["loss"]
    assert found.item() == pytest.approx(wanted, rel=1e-5)
