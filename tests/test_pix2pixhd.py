"""The coarse-to-fine generator: published counts, any size, every part alive, the same in ONNX."""

import numpy as np
import pytest
import torch

from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.formats.onnx import Onnx
from compress.kit.graph import count_parameters
from compress.kit.lesson import Lesson
from compress.kit.nets.pix2pixhd import InstanceNorm, Residual, build_pix2pixhd, fill_up, in_stages, whole
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("retouch")
KINDS = ("residual", "rsu")


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_pix2pixhd(64, (6, 1), width=8, **{"coarse": True, **options}).eval()


def photo(height, width, count=1, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def convolutions(*shapes):
    """Weights and one bias (or shift) per output channel."""
    return sum(inputs * outputs * kernel**2 + outputs for inputs, outputs, kernel in shapes)


def test_the_published_layers_give_the_thesis_s_size():
    front = [(3, 64, 7), (64, 128, 3), (128, 256, 3)]
    back = [(256, 128, 3), (128, 64, 3)]
    local = [(3, 32, 7), (32, 64, 3), (64, 64, 3), (64, 64, 3), (64, 32, 3), (32, 3, 7)]
    coarse = [(64, 3, 7)]  # G1's own, as it has one where it stands alone
    wanted = convolutions(*front, *[(256, 256, 3)] * 12, *back, *local, *coarse)
    with torch.device("meta"):
        found = count_parameters(find_network("pix2pixhd_retouch").build())
    assert found == wanted == 7_957_958
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
    assert len(features) == enhancers + 2 + bool(enhancers)
    if enhancers:
        assert features[-1].shape == (1, 3, *(-(-side // 2**enhancers) for side in size))


def test_a_large_odd_photo_goes_through():
    with torch.no_grad():
        raw = build_pix2pixhd(64, (6, 1), width=4).eval()(photo(767, 1023))[0]
    assert raw.shape == (1, 3, 767, 1023)
    assert torch.isfinite(raw).all()


@pytest.mark.parametrize(("size", "least"), [((1, 1), 2), ((3, 50), 2), ((17, 21), 2), ((16, 24), 2), ((9, 200), 1)])
def test_filling_up_is_numpy_s_reflection(size, least):
    image = photo(*size)
    wide, tall = (max(-(-side // 8) * 8, least * 8) - side for side in size)
    wanted = np.pad(image.numpy(), ((0, 0), (0, 0), (0, wide), (0, tall)), mode="reflect")
    assert np.array_equal(fill_up(image, 8, least).numpy(), wanted)


def enter(net, name):
    next(phase for phase in in_stages() if phase.name == name).enter(net)
    return net


def learning(net):
    """Top parts of which a parameter gets a gradient from the picture."""
    net.zero_grad()
    net(photo(16, 16, count=2))[0].square().mean().backward()
    return {path.split(".")[0] for path, p in net.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_stage_teaches_its_own_parts():
    net = small()
    assert learning(enter(net, "g1")) == {"g1", "coarse"}
    assert learning(enter(net, "g2")) == {"enhancers", "head"}
    assert learning(enter(net, "all")) == {"g1", "enhancers", "head"}
    # a run that is resumed enters a stage with no other before it
    assert learning(enter(small(), "g2")) == {"enhancers", "head"}


@pytest.mark.parametrize("enhancers", [1, 2])
def test_g1_alone_paints_at_its_own_size_what_it_paints_in_the_whole(enhancers):
    net, image = small(enhancers=enhancers), photo(37, 45)
    with torch.no_grad():
        whole_net = net(image)
        alone = enter(net, "g1")(image)
    assert alone[0].shape == (1, 3, -(-37 // 2**enhancers), -(-45 // 2**enhancers))
    assert all(torch.equal(a, b) for a, b in zip(alone, (whole_net[-1], *whole_net[-3:-1]), strict=True))
    with torch.no_grad():
        assert torch.equal(enter(net, "all")(image)[0], whole_net[0])


def test_without_enhancers_every_stage_is_the_whole():
    for name in ("g1", "g2", "all"):
        assert learning(enter(small(enhancers=0), name)) == {"g1", "head"}


def test_the_stages_come_in_order_and_fill_the_training():
    lesson = Lesson(TASK.loss, phases=in_stages())
    found = [lesson.phase_at(step, 100).name for step in range(100)]
    assert list(dict.fromkeys(found)) == ["g1", "g2", "all"]
    assert sum(phase.share for phase in lesson.phases) == pytest.approx(1)
    assert whole().share == 1


def test_the_enhancers_stage_costs_no_backward_pass_of_g1():
    net = enter(small(), "g2")
    outputs = net(photo(16, 16))
    assert outputs[0].requires_grad
    assert not any(features.requires_grad for features in outputs[2:])


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
    raw, *_, coarse = net(photo(37, 45, count=2))
    (raw.square().mean() + coarse.square().mean()).backward()
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
    torch.manual_seed(0)
    net = build_pix2pixhd(64, (1, 1), width=8, blocks=kind, coarse=True)  # the exporter takes its time for each block
    shipped = Shipped(net.eval(), TASK.activate).eval()
    export = Onnx().write(shipped, tmp_path / "net.onnx", input=TASK.input, output=TASK.output, size=(32, 32), stride=1)
    assert export.dynamic, export.reason
    images = [photo(*size).numpy() for size in [(37, 45), (33, 99), (64, 32), (5, 7)]]
    assert check_parity(shipped, export.path, images, tolerance=1e-4).max_abs < 1e-4


@pytest.mark.parametrize("options", [{"blocks": "residul"}, {"enhancers": 5}, {"enhancers": -1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError) as caught:
        find_network("pix2pixhd_retouch").build(**options)
    assert str(next(iter(options.values()))) in str(caught.value)
