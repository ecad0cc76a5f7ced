"""The coarse-to-fine generator: published counts, any size, every part alive, the same in ONNX."""

import numpy as np
import pytest
import torch

from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.formats.onnx import Onnx
from compress.kit.graph import count_parameters
from compress.kit.parity import check_parity
from compress.kit.pix2pixhd import InstanceNorm, Residual, build_pix2pixhd, fill_up
from compress.kit.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("retouch")
KINDS = ("residual", "rsu")


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_pix2pixhd(64, (6, 1), width=8, **options).eval()


def photo(height, width, count=1, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def convolutions(*shapes):
    """Weights and one bias (or shift) per output channel."""
    return sum(inputs * outputs * kernel**2 + outputs for inputs, outputs, kernel in shapes)


def test_the_published_layers_give_the_thesis_s_size():
    front = [(3, 64, 7), (64, 128, 3), (128, 256, 3)]
    back = [(256, 128, 3), (128, 64, 3)]
    local = [(3, 32, 7), (32, 64, 3), (64, 64, 3), (64, 64, 3), (64, 32, 3), (32, 3, 7)]
    wanted = convolutions(*front, *[(256, 256, 3)] * 12, *back, *local)
    with torch.device("meta"):
        found = count_parameters(find_network("pix2pixhd_retouch").build())
    assert found == wanted == 7_948_547
    assert found * 4 / 1e6 == pytest.approx(31.8, rel=0.01)


@pytest.mark.parametrize(("name", "megabytes"), [("pix2pixhd_retouch", 31.8), ("retouch_small", 12.1)])
@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_block_have_the_thesis_s_size(name, megabytes, kind):
    with torch.device("meta"):
        found = count_parameters(find_network(name).build(blocks=kind))
    assert found * 4 / 1e6 == pytest.approx(megabytes, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhancers", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 32), (37, 45)], ids=str)
def test_any_size_goes_in_and_comes_out(kind, enhancers, size):
    with torch.no_grad():
        raw, *features = small(blocks=kind, enhancers=enhancers)(photo(*size))
    assert raw.shape == (1, 3, *size)
    assert torch.isfinite(raw).all()
    assert len(features) == enhancers + 2


def test_filling_up_reflects_and_leaves_the_picture():
    image = photo(17, 21)
    filled = fill_up(image, 8)
    assert filled.shape == (1, 3, 24, 24)
    assert torch.equal(filled[:, :, :17, :21], image)
    assert torch.equal(filled[:, :, 17], filled[:, :, 15])
    assert torch.equal(fill_up(image[:, :, :16, :16], 8), image[:, :, :16, :16])
    assert fill_up(image[:, :, :3], 8).shape == (1, 3, 16, 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["g1.back", "g1.blocks", "enhancers.0.front", "enhancers.0.blocks"])
def test_every_part_has_a_say(kind, part):
    """Shuffling one part's output between pictures must change the result by much of its own spread."""
    net, images = small(blocks=kind), photo(32, 32, count=4)
    with torch.no_grad():
        whole = net(images)[0]
        net.get_submodule(part).register_forward_hook(lambda module, given, output: output.roll(1, 0))
        shuffled = net(images)[0]
    assert (whole - shuffled).abs().mean() > 0.1 * whole.std()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter_by_more_than_rounding(kind):
    net = small(blocks=kind).train()
    net(photo(37, 45, count=2))[0].square().mean().backward()
    faint = [path for path, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert faint == []


def test_the_norm_is_per_picture_and_shifts():
    norm = InstanceNorm(2)
    norm.bias.data = torch.tensor([1.0, -2.0])
    features = 5 * torch.randn(3, 2, 7, 9, generator=torch.Generator().manual_seed(0)) + 4
    values = features.numpy()
    mean, spread = values.mean((2, 3), keepdims=True), values.std((2, 3), keepdims=True)
    wanted = (values - mean) / np.sqrt(spread**2 + 1e-5) + np.array([1.0, -2.0])[:, None, None]
    np.testing.assert_allclose(norm(features).detach().numpy(), wanted, atol=1e-5)


def test_a_residual_block_leaves_what_it_was_handed():
    features = photo(8, 8).repeat(1, 2, 1, 1)
    kept = features.clone()
    Residual(6)(features)
    assert torch.equal(features, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_agrees_at_odd_sizes(tmp_path, kind):
    shipped = Shipped(small(blocks=kind), TASK.activate).eval()
    export = Onnx().write(shipped, tmp_path / "net.onnx", input=TASK.input, output=TASK.output, size=(32, 32), stride=1)
    assert export.dynamic, export.reason
    images = [photo(*size).numpy() for size in [(37, 45), (33, 99), (64, 32)]]
    assert check_parity(shipped, export.path, images, tolerance=1e-4).max_abs < 1e-4


@pytest.mark.parametrize("options", [{"blocks": "residul"}, {"enhancers": 5}, {"enhancers": -1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError) as caught:
        find_network("pix2pixhd_retouch").build(**options)
    assert str(next(iter(options.values()))) in str(caught.value)
