"""CSRNet: its published count, a slow pixel-by-pixel reference, any size, and the same in ONNX."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.core.networks import find_network
from compress.formats.onnx import Onnx
from compress.kit.graph import count_parameters
from compress.kit.nets.csrnet import build_csrnet
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


def small(seed=0):
    torch.manual_seed(seed)
    return build_csrnet(4).eval()


def photo(height, width, count=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_it_has_the_published_count():
    """He et al. 2020, table 1: 36,489 parameters."""
    with torch.device("meta"):
        assert count_parameters(find_network("csrnet").build()) == 36_489


def test_each_pixel_goes_through_the_same_curves():
    """The base network as a loop over pixels in numpy, given the condition."""
    net, image = small(), photo(9, 11)
    with torch.no_grad():
        condition = net.condition(image)[0].numpy()
        found = net(image)[0][0].numpy()
    values = {name: value.detach().numpy() for name, value in net.named_parameters()}
    for y in range(9):
        for x in range(11):
            pixel = image[0, :, y, x].numpy()
            for number, layer in enumerate(("first", "second", "third")):
                pixel = values[f"{layer}.conv.weight"][:, :, 0, 0] @ pixel + values[f"{layer}.conv.bias"]
                scale = values[f"{layer}.scale.weight"] @ condition + values[f"{layer}.scale.bias"]
                shift = values[f"{layer}.shift.weight"] @ condition + values[f"{layer}.shift.bias"]
                pixel = pixel * scale + shift + pixel
                pixel = np.maximum(pixel, 0) if number < 2 else pixel
            np.testing.assert_allclose(found[:, y, x], pixel, atol=1e-5)


def test_the_condition_is_the_mean_of_three_convolutions():
    net, image = small(), photo(20, 24)
    state = net.condition.state_dict()
    x = image
    for number in (0, 2, 4):
        x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1)), state[f"convs.{number}.weight"], state[f"convs.{number}.bias"], 2))
    with torch.no_grad():
        torch.testing.assert_close(net.condition(image), x.mean((2, 3)))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (37, 45), (767, 1023)], ids=str)
def test_any_size_goes_in_and_comes_out(size):
    with torch.no_grad():
        (raw,) = small()(photo(*size))
    assert raw.shape == (1, 3, *size)
    assert torch.isfinite(raw).all()


def test_what_one_pixel_becomes_depends_on_the_photo_as_a_whole():
    net, image = small(), photo(16, 16)
    other = image.clone()
    other[:, :, 8:] += 1.0
    with torch.no_grad():
        assert not torch.equal(net(image)[0][:, :, :8], net(other)[0][:, :, :8])


def test_onnx_agrees_at_any_size(tmp_path):
    shipped = Shipped(small(), TASK.activate).eval()
    export = Onnx().write(shipped, tmp_path / "net.onnx", input=TASK.input, output=TASK.output, size=(32, 32), stride=1)
    assert export.dynamic, export.reason
    images = [photo(*size).numpy() for size in [(37, 45), (1, 1), (5, 7), (64, 32)]]
    assert check_parity(shipped, export.path, images, tolerance=1e-4).max_abs < 1e-4


def test_it_learns_a_global_change_in_a_few_steps():
    """Half the light: a curve that is the same for every pixel."""
    torch.manual_seed(0)
    net = build_csrnet(16)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    batch = {"image": target - 1, "target": target}  # 0.5 target of -1..1
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = TASK.loss(net(batch["image"]), batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    identity = ((batch["image"] + 1) / 2 - target).abs().mean().item()
    assert losses[-1] < 0.2 * identity
