"""Laws every registered network keeps, at width 8 and 32 px."""

from functools import cache

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from tiny_store import season

from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.kit.alive import Shuffled
from compress.kit.graph import Taps, count_parameters, fold_batch_norm, load_state
from compress.tasks import TASKS

WIDTH = 8
NAMES = [*TEACHERS.names(), *STUDENTS.names()]
pytestmark = pytest.mark.parametrize("name", NAMES)


def build(name, seed=0):
    torch.manual_seed(seed)
    return find_network(name).build(width=WIDTH)


@cache
def sample(name):
    """A network in eval mode whose norms have seen data, as after training. Shared: don't change it."""
    net = build(name).eval()
    season(net)
    return net


def side(name, least):
    stride = find_network(name).stride
    return -(-least // stride) * stride


def images(name, height=32, width=32, count=2):
    channels = TASKS.get(find_network(name).task).input.channels
    return torch.randn(count, channels, side(name, height), side(name, width), generator=torch.manual_seed(1))


def run(net, image):
    with torch.no_grad():
        return net(image)


@pytest.mark.parametrize("size", [(32, 32), (37, 45), (64, 32)], ids=str)
def test_outputs_are_a_tuple_and_the_first_has_the_size_of_the_image(name, size):
    image = images(name, *size)
    outputs = run(sample(name), image)
    assert isinstance(outputs, tuple)
    assert all(output.ndim == 4 and len(output) == len(image) for output in outputs)
    assert outputs[0].shape[2:] == image.shape[2:]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (1023, 767)], ids=str)
def test_any_size_passes(name, size):
    torch.manual_seed(0)
    net = find_network(name).build(width=4).eval()
    image = torch.randn(1, TASKS.get(find_network(name).task).input.channels, *size)
    first = run(net, image)[0]
    assert first.shape[2:] == size
    assert torch.isfinite(first).all()


def test_declared_branches_lead_to_what_ships(name):
    image, network = images(name), find_network(name)
    plain = run(sample(name), image)[0]
    for branch in network.branches:
        with Shuffled(sample(name), branch) as shuffled:
            changed = run(sample(name), image)[0]
        assert shuffled.spread > 0, branch
        assert not torch.equal(changed, plain), branch
    assert torch.equal(run(sample(name), image)[0], plain)


def test_outputs_are_finite_and_follow_the_image(name):
    first = run(sample(name), images(name))[0]
    assert torch.isfinite(first).all()
    assert first[0].std() > 0
    assert not torch.equal(first[0], first[1])


def test_every_parameter_gets_a_gradient(name):
    net = build(name).eval()
    sum(output.square().mean() for output in net(images(name))).backward()
    trained = {path: p.grad for path, p in net.named_parameters() if p.requires_grad}
    assert trained
    assert [path for path, grad in trained.items() if grad is None or not torch.isfinite(grad).all()] == []
    assert [path for path, grad in trained.items() if not grad.any()] == []


def test_eval_mode_is_deterministic(name):
    image = images(name)
    assert all(torch.equal(a, b) for a, b in zip(run(sample(name), image), run(sample(name), image), strict=True))


def test_an_image_does_not_see_the_rest_of_its_batch(name):
    image = images(name, count=3)
    together, alone = run(sample(name), image), run(sample(name), image[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_state_survives_safetensors(name):
    state = load_safetensors(save_safetensors({k: v.contiguous() for k, v in sample(name).state_dict().items()}))
    other = build(name, seed=7).eval()
    assert not torch.equal(run(other, images(name))[0], run(sample(name), images(name))[0])
    load_state(other, state)
    assert torch.equal(run(other, images(name))[0], run(sample(name), images(name))[0])


def test_folding_batch_norm_keeps_the_output(name):
    image = images(name, 37, 45)
    for a, b in zip(run(fold_batch_norm(sample(name)), image), run(sample(name), image), strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


def test_declared_parameters_are_those_of_the_full_network(name):
    network = find_network(name)
    with torch.device("meta"):
        full = count_parameters(network.build())
    assert full == network.parameters or not network.parameters
    assert count_parameters(sample(name)) < full


def test_declared_taps_lead_to_tensors(name):
    network = find_network(name)
    with Taps(sample(name), network.taps) as seen:
        run(sample(name), images(name))
    assert set(seen) == set(network.taps)
    assert all(isinstance(output, torch.Tensor) for output in seen.values())


def test_record_agrees_with_the_rooms(name):
    network = find_network(name)
    assert network.name == name
    assert (name in TEACHERS) != (name in STUDENTS)
    assert network.task in TASKS
    assert network.size % network.stride == 0
    assert network.student in STUDENTS or not network.student
    assert (TEACHERS if name in TEACHERS else STUDENTS).help(name).endswith(".")
