"""Feature networks of the user's: VGG and AlexNet by key names, the loss of features, LPIPS and FID, each by hand."""

import logging

import numpy as np
import onnx
import pytest
import scipy.linalg
import scipy.signal
import torch
from onnx import TensorProto, helper
from torch import nn

from compress.core.console import log
from compress.core.errors import ArtifactError, DataError, UsageError
from compress.core.networks import find_network
from compress.kit.measure.perceptual import Perceptual, read_lpips, read_perceptual
from compress.kit.nets.vgg import KINDS, Features, ends, make_features, relus, starts
from compress.tasks import TASKS

TASK = TASKS.get("retouch")
KIND = {kind.name: kind for kind in KINDS}
# torchvision's numbers of the convolutions
CONVS = {
    "VGG-16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "VGG-19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    "AlexNet": (0, 3, 6, 8, 10),
}


def state(name, width=3, seed=0):
    """Random weights of a narrow network of that kind, as torchvision would save it, classifier and all."""
    generator = torch.Generator().manual_seed(seed)
    found, inputs = {}, 3
    kernels = [kernel for kernel in KIND[name].kernels if kernel]
    for number, kernel in zip(CONVS[name], kernels, strict=True):
        spread = (2 / (inputs * kernel**2)) ** 0.5
        found[f"features.{number}.weight"] = spread * torch.randn(width, inputs, kernel, kernel, generator=generator)
        found[f"features.{number}.bias"] = 0.1 * torch.randn(width, generator=generator)
        inputs = width
    return {**found, "classifier.0.weight": torch.zeros(4, 4)}


def lins(width=3, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for n in range(5)}


def saved(folder, name, content):
    path = folder / name
    torch.save(content, path)
    return path


def pictures(side=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, 3, side, side, generator=generator) for _ in range(2))


def slow_maps(weights, name, image):
    """Every ReLU's map of one image (3, H, W), by scipy and loops; VGGs only."""
    maps, x, before = {}, image.astype(np.float64), None
    for number in CONVS[name]:
        if before is not None and number - before == 3:  # a pooling lies between
            height, width = (side // 2 * 2 for side in x.shape[1:])
            x = x[:, :height, :width].reshape(len(x), height // 2, 2, width // 2, 2).max((2, 4))
        kernel, bias = (weights[f"features.{number}.{part}"].double().numpy() for part in ("weight", "bias"))
        planes = [
            sum(scipy.signal.correlate2d(plane, k, mode="same") for plane, k in zip(x, channel, strict=True)) + b
            for channel, b in zip(kernel, bias, strict=True)
        ]
        x = np.maximum(np.stack(planes), 0)
        maps[number + 1] = x
        before = number
    return maps


@pytest.mark.parametrize("name", CONVS)
def test_the_key_names_are_torchvision_s(name):
    net = make_features(state(name), "file", (name,))
    assert {key.split(".")[1] for key in net.state_dict()} == {str(number) for number in CONVS[name]}
    assert not any(p.requires_grad for p in net.parameters())


def test_the_layers_are_those_of_the_papers():
    assert ends(KIND["VGG-16"]) == (3, 8, 15, 22, 29)  # relu1_2, 2_2, 3_3, 4_3, 5_3
    assert starts(KIND["VGG-19"]) == (1, 6, 11, 20, 29)  # relu1_1, 2_1, 3_1, 4_1, 5_1
    assert relus(KIND["AlexNet"]) == (1, 4, 7, 9, 11)


def test_a_published_vgg_16_has_its_published_count():
    from compress.kit.nets.unet import VGG16

    widths = [width for stage in VGG16 for width in stage]
    with torch.device("meta"):
        net = Features(KIND["VGG-16"], list(zip(widths, [3, *widths], strict=False)))
    assert sum(p.numel() for p in net.parameters()) == 14_714_688  # torchvision's vgg16().features


@pytest.mark.parametrize("name", ["VGG-16", "VGG-19"])
def test_maps_are_those_of_slow_convolutions(name):
    weights, (image, _) = state(name), pictures()
    wanted = slow_maps(weights, name, image[0].numpy())
    found = make_features(weights, "file", (name,))(image, list(wanted))
    for number, features in zip(wanted, found, strict=True):
        np.testing.assert_allclose(features[0].numpy(), wanted[number], atol=1e-4)


@pytest.mark.parametrize(("name", "side"), [("VGG-16", 3), ("VGG-19", 15), ("AlexNet", 20)])
def test_a_small_picture_has_features(name, side):
    net = make_features(state(name), "file", (name,))
    assert all(torch.isfinite(features).all() for features in net(pictures(side)[0], relus(net.kind)))


@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [("VGG-16", (3, 8, 15, 22), (1, 1, 1, 1)), ("VGG-19", (1, 6, 11, 20, 29), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1))],
)
def test_the_loss_of_features_is_a_sum_of_l1s(name, layers, weights):
    values, (a, b) = state(name), pictures()
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = 0.0
    for one, two in zip(a.numpy(), b.numpy(), strict=True):
        left, right = (slow_maps(values, name, (image - mean) / std) for image in (one, two))
        wanted += sum(w * np.abs(left[k] - right[k]).mean() for w, k in zip(weights, layers, strict=True)) / 2
    loss = Perceptual(make_features(values, "file", (name,)))
    assert loss(a, b).item() == pytest.approx(wanted, rel=1e-4)
    assert loss(a, a).item() == 0


def test_the_loss_of_features_is_float32_under_autocast_and_reaches_the_picture(tmp_path):
    loss = read_perceptual(saved(tmp_path, "vgg.pth", state("VGG-16")))
    a, b = pictures()
    a.requires_grad_()
    b.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(a, b)
    assert value.dtype == torch.float32
    value.backward()
    assert a.grad.any()
    assert b.grad is None


def test_a_teacher_learns_from_features_too(tmp_path):
    path = saved(tmp_path, "vgg.pth", state("VGG-19"))
    network, data = find_network("pix2pixhd_retouch"), TASK.open(["builtin"], "train")
    plain, lesson = network.teach(TASK, data), network.teach(TASK, data, perceptual=path, perceptual_weight=0.5)
    raw, batch = torch.randn(1, 3, 8, 8), {"image": torch.randn(1, 3, 16, 16), "target": torch.rand(1, 3, 16, 16)}
    told = lesson.loss([raw], batch)
    assert told["loss"].item() == pytest.approx(
        plain.loss([raw], batch)["loss"].item() + 0.5 * told["perceptual"].item(), rel=1e-5
    )
    assert len(lesson.settings["perceptual"]) == 64
    assert "perceptual" not in plain.settings


@pytest.mark.parametrize("parts", ["one", "two", "whole"])
def test_lpips_is_its_formula(tmp_path, parts):
    """Zhang et al. 2018, equation 1, in numpy."""
    values, weights, (a, b) = state("VGG-16"), lins(), pictures()
    if parts == "one":
        net = read_lpips(saved(tmp_path, "all.pth", {**values, **weights}))
    elif parts == "two":
        net = read_lpips(saved(tmp_path, "vgg.pth", weights), saved(tmp_path, "vgg16.pth", values))
    else:
        slices = {f"net.slice1.{key.removeprefix('features.')}": v for key, v in values.items() if "features" in key}
        net = read_lpips(saved(tmp_path, "lpips.pth", {**slices, **weights}))
    shift, scale = (np.array(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    wanted = []
    for one, two in zip(a.numpy(), b.numpy(), strict=True):
        left, right = (slow_maps(values, "VGG-16", (2 * image - 1 - shift) / scale) for image in (one, two))
        total = 0.0
        for number, layer in enumerate((3, 8, 15, 22, 29)):
            x, y = (m[layer] / (np.sqrt((m[layer] ** 2).sum(0)) + 1e-10) for m in (left, right))
            w = weights[f"lin{number}.model.1.weight"][0].double().numpy()
            total += (w * (x - y) ** 2).sum(0).mean()
        wanted.append(total)
    np.testing.assert_allclose(net(a, b).numpy(), wanted, rtol=1e-4)
    assert net(a, a).abs().max() == 0


def test_lpips_is_an_extra_of_evaluate(tmp_path):
    path = saved(tmp_path, "alex.pth", {**state("AlexNet"), **lins()})
    (extra,) = TASK.extras(lpips=path)
    truth = np.random.default_rng(0).integers(0, 256, (70, 66, 3), dtype=np.uint8)
    extra.add(np.moveaxis(truth, -1, 0).astype(np.float32) / 255, truth)
    assert extra.result() == pytest.approx(0, abs=1e-6)
    extra.add(np.zeros((3, 35, 33), np.float32), truth)  # half the size, as it may ship
    assert extra.result() > 0
    assert (extra.metric.name, extra.metric.better) == ("lpips", "lower")


class Script(nn.Module):
    """As StyleGAN's: classes unless features are asked for."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = img.float() / 255
        features = torch.cat((x.mean((2, 3)), x.square().mean((2, 3))), 1)
        return features if return_features else features[:, :1]


def script(folder):
    path = folder / "features.pt"
    torch.jit.script(Script()).save(str(path))
    return path


def as_onnx(folder, side=None, inputs=3):
    """Mean of each channel over a picture of 0..255."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", inputs, side or "H", side or "W"])
    found = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", inputs, 1, 1])
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["image"], ["features"])], "g", [image], [found])
    path = folder / "features.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def frechet(one, two):
    """Heusel et al. 2017, equation 6."""
    a, b = (np.cov(f, rowvar=False) for f in (one, two))
    root = scipy.linalg.sqrtm(a @ b).real
    return ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize("kind", ["script", "onnx", "fixed"])
def test_fid_is_its_formula(tmp_path, kind, caplog, monkeypatch):
    path = script(tmp_path) if kind == "script" else as_onnx(tmp_path, 16 if kind == "fixed" else None)
    (extra,) = TASK.extras(fid=path)
    random = np.random.default_rng(0)
    truths = random.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    guesses = (random.integers(0, 256, (12, 16, 16, 3)) * 0.8).astype(np.uint8)
    for guess, truth in zip(guesses, truths, strict=True):
        extra.add(np.moveaxis(guess, -1, 0).astype(np.float32) / 255, truth)

    def features(images):
        x = images / 255 if kind == "script" else images.astype(np.float64)
        mean = x.mean((1, 2))
        return np.concatenate((mean, (x**2).mean((1, 2))), 1) if kind == "script" else mean

    monkeypatch.setattr(log, "propagate", True)  # a command line that ran before in this process turned it off
    with caplog.at_level(logging.WARNING, "compress"):
        assert extra.result() == pytest.approx(frechet(features(guesses), features(truths)), rel=1e-3)
    assert "12 images" in caplog.text


def test_one_image_has_no_fid(tmp_path):
    (extra,) = TASK.extras(fid=script(tmp_path))
    extra.add(np.zeros((3, 8, 8), np.float32), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="at least 2 images, found 1"):
        extra.result()


def test_nothing_is_measured_that_was_not_asked_for():
    assert TASK.extras() == []


def test_files_of_another_network_are_refused(tmp_path):
    other = saved(tmp_path, "other.pth", {"conv.weight": torch.zeros(1, 3, 3, 3)})
    normed = saved(tmp_path, "bn.pth", {**state("VGG-16"), "features.1.running_mean": torch.zeros(3)})
    alex, alone = saved(tmp_path, "alexnet.pth", state("AlexNet")), saved(tmp_path, "lin.pth", lins())
    wide = saved(tmp_path, "wide.pth", lins(width=5))
    (tmp_path / "text.pt").write_text("no network")
    (tmp_path / "text.onnx").write_text("no network")
    for wanted, call in (
        ("no VGG-16 or VGG-19", lambda: read_perceptual(other)),
        ("no VGG-16 or VGG-19", lambda: read_perceptual(normed)),
        ("no VGG-16 or VGG-19", lambda: read_perceptual(alex)),
        ("no weights file", lambda: read_perceptual(tmp_path / "absent.pth")),
        ("no LPIPS weights", lambda: read_lpips(other)),
        ("without the network", lambda: read_lpips(alone)),
        ("no VGG-16 or AlexNet", lambda: read_lpips(alone, saved(tmp_path, "19.pth", state("VGG-19")))),
        ("weights for .* channels", lambda: read_lpips(wide, alex)),
        ("no feature network", lambda: TASK.extras(fid=tmp_path / "absent.pt")),
        ("no TorchScript", lambda: TASK.extras(fid=tmp_path / "text.pt")),
        ("ONNX", lambda: TASK.extras(fid=tmp_path / "text.onnx")),
        ("does not turn", lambda: TASK.extras(fid=as_onnx(tmp_path, inputs=5))),
    ):
        with pytest.raises(ArtifactError, match=wanted) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="without --lpips"):
        TASK.extras(lpips_backbone=alex)
