"""Networks for segmentation: parameters by formula, any size, published VGG-16 weights, ONNX at odd sizes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress.core.errors import ArtifactError
from compress.core.networks import find_network
from compress.core.store import sha256_of
from compress.formats.onnx import Onnx, OnnxRunner
from compress.kit.graph import count_parameters
from compress.kit.nets.unet import VGG16, VggUNet, load_encoder
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("segmentation")
NAMES = ["voc_unet", "plain_unet", "vgg_unet", "unet_slim", "lraspp_small"]


def of_task(name, **options):
    torch.manual_seed(0)
    return find_network(name).build(**options)


def conv(source, width, kernel=3):
    return kernel * kernel * source * width + width


def unet_parameters(widths, classes):
    down = sum(conv(a, b) + conv(b, b) for a, b in zip((3, *widths), widths, strict=False))
    up = sum(conv(a, b, 2) + conv(2 * b, b) + conv(b, b) for b, a in pairwise(widths))
    return down + up + conv(widths[0], classes, 1)


def test_voc_unet_has_the_parameters_of_its_formula():
    assert find_network("voc_unet").parameters == unet_parameters((64, 128, 256, 512, 1024), 21) == 31_033_045


def test_plain_unet_has_the_parameters_of_its_formula():
    assert find_network("plain_unet").parameters == unet_parameters((64, 128, 256, 512, 512), 21)


def test_vgg_unet_has_torchvision_s_encoder():
    with torch.device("meta"):
        net = find_network("vgg_unet").build()
    published = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # convolutions in torchvision's vgg16().features
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items() if k.startswith("features")}
    widths = [width for stage in VGG16 for width in stage]
    assert list(shapes) == [f"features.{k}.{part}" for k in published for part in ("weight", "bias")]
    assert [shapes[f"features.{k}.weight"] for k in published] == [
        (width, source, 3, 3) for source, width in zip((3, *widths), widths, strict=False)
    ]
    assert count_parameters(net.features) == 14_714_688  # torchvision's count of vgg16().features


def test_unet_slim_is_a_tenth_of_its_teachers():
    slim = find_network("unet_slim").parameters
    assert slim <= find_network("voc_unet").parameters / 10
    assert all(find_network(name).student == "unet_slim" for name in NAMES[:3])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (16, 17), (31, 50)], ids=str)
def test_any_size_comes_back(name, size):
    net = of_task(name, width=8, classes=5).eval()
    assert net(torch.zeros(1, 3, *size))[0].shape == (1, 5, *size)


@pytest.mark.parametrize("name", NAMES[:3])
def test_signals_of_networks_without_norms_neither_fade_nor_explode(name):
    image = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))
    with torch.no_grad():
        assert 0.1 < of_task(name, width=16).eval()(image)[0].std() < 10


@pytest.mark.parametrize("name", NAMES)
def test_onnx_agrees_at_odd_sizes(name, tmp_path):
    net = Shipped(of_task(name, width=8, classes=5), TASK.activate).eval()
    spec = replace(TASK.input, height=32, width=32)
    export = Onnx().write(net, tmp_path / "net.onnx", input=spec, output=TASK.output, size=(32, 32))
    assert export.dynamic, export.reason
    runner = OnnxRunner(tmp_path / "net.onnx", threads=1)
    for seed, size in enumerate([(37, 53), (16, 16), (63, 31)]):
        image = np.random.default_rng(seed).standard_normal((1, 3, *size), np.float32)
        with torch.no_grad():
            wanted = net(torch.from_numpy(image)).numpy()
        assert np.abs(runner(image) - wanted).max() < 1e-4
    runner.close()


def small_vgg(seed):
    torch.manual_seed(seed)
    return VggUNet([[min(width, 4) for width in stage] for stage in VGG16], 3)


def test_encoder_weights_load_from_a_file_with_a_classifier(tmp_path):
    source, net = small_vgg(1), small_vgg(2)
    state = {k: v.clone() for k, v in source.state_dict().items() if k.startswith("features")}
    save_file({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.safetensors")
    head = net.head.weight.clone()
    load_encoder(net, tmp_path / "vgg16.safetensors")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(net.head.weight, head)


def test_weights_of_another_network_are_refused(tmp_path):
    net = small_vgg(0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    save_file({"stage1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="holds no VGG-16"):
        load_encoder(net, tmp_path / "other.safetensors")
    wide = {f"features.{k}": torch.zeros(3) for k in ("0.weight", "1.running_mean")}
    save_file(wide, tmp_path / "bn.safetensors")
    with pytest.raises(ArtifactError, match="missing"):
        load_encoder(net, tmp_path / "bn.safetensors")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_a_lesson_on_vgg_weights_starts_from_them(tmp_path):
    data, teach = TASK.open(["builtin"], "val"), find_network("vgg_unet").teach
    source, net = small_vgg(1), small_vgg(2)
    state = {k: v.clone() for k, v in source.state_dict().items() if k.startswith("features")}
    path = tmp_path / "vgg16.safetensors"
    save_file(state, path)
    lesson = teach(TASK, data, encoder_weights=path, losses=("ce", "dice"))
    assert lesson.settings == {"losses": ["ce", "dice"], "class_weights": [], "encoder_weights": sha256_of(path)}
    lesson.prepare(net)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    alone = teach(TASK, data)
    assert alone.prepare is None
    assert alone.settings == TASK.teach(data).settings


def test_wrong_encoder_weights_stop_the_lesson(tmp_path):
    data, teach = TASK.open(["builtin"], "val"), find_network("vgg_unet").teach
    with pytest.raises(ArtifactError, match="no weights file"):
        teach(TASK, data, encoder_weights=tmp_path / "none.pth")
    (tmp_path / "vgg.pth").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="damaged"):
        teach(TASK, data, encoder_weights=tmp_path / "vgg.pth").prepare(small_vgg(0))
