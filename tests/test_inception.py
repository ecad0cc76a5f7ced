"""Inception-ResNet-v2: published counts, sizes and key names; frozen; its weights from a file; what it sees."""

import numpy as np
import pytest
import skimage.color
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError
from compress.kit.graph import Taps, count_parameters
from compress.kit.nets.inception import GreyEye, InceptionResNetV2, embed, fill, load_inception

# timm's inception_resnet_v2: a sample of every kind of key, with the shapes of the published weights
PUBLISHED = {
    "conv2d_1a.conv.weight": (32, 3, 3, 3),
    "conv2d_1a.bn.running_var": (32,),
    "conv2d_4a.conv.weight": (192, 80, 3, 3),
    "mixed_5b.branch0.conv.weight": (96, 192, 1, 1),
    "mixed_5b.branch1.1.conv.weight": (64, 48, 5, 5),
    "mixed_5b.branch3.1.bn.bias": (64,),
    "repeat.9.branch2.2.conv.weight": (64, 48, 3, 3),
    "repeat.0.conv2d.weight": (320, 128, 1, 1),
    "repeat.0.conv2d.bias": (320,),
    "mixed_6a.branch0.conv.weight": (384, 320, 3, 3),
    "mixed_6a.branch1.2.conv.weight": (384, 256, 3, 3),
    "repeat_1.19.branch1.1.conv.weight": (160, 128, 1, 7),
    "repeat_1.19.branch1.2.conv.weight": (192, 160, 7, 1),
    "repeat_1.0.conv2d.weight": (1088, 384, 1, 1),
    "mixed_7a.branch2.2.conv.weight": (320, 288, 3, 3),
    "repeat_2.8.branch1.1.conv.weight": (224, 192, 1, 3),
    "block8.conv2d.weight": (2080, 448, 1, 1),
    "conv2d_7b.conv.weight": (1536, 2080, 1, 1),
    "classif.weight": (1000, 1536),
    "classif.bias": (1000,),
}


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return InceptionResNetV2(1000).eval()


def eye(seed=0, outputs=6):
    """A narrow one whose norms have seen pictures, as after training, so that pictures reach its end."""
    torch.manual_seed(seed)
    made = GreyEye(outputs, width=8)
    norms = [part for part in made.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    made(torch.rand(4, 1, 24, 24) * 2 - 1)
    for norm in norms:
        norm.momentum, norm.training = 0.1, False
    return made


def photos(count=2, height=40, width=56):
    ramp = np.linspace(0, 255, width)[None, None, :, None] * np.ones((count, height, 1, 3))
    noise = np.random.default_rng(0).uniform(-40, 40, ramp.shape)
    return torch.from_numpy(np.moveaxis((ramp + noise).clip(0, 255).astype(np.uint8), -1, 1).copy())


def test_it_has_the_published_count_of_parameters(full):
    assert count_parameters(full) == 55_843_464  # timm's results-imagenet.csv: 55.84 M
    with torch.device("meta"):
        assert count_parameters(InceptionResNetV2(1001)) == 55_843_464 + 1536 + 1


def test_its_keys_are_timm_s(full):
    shapes = {key: tuple(value.shape) for key, value in full.state_dict().items()}
    assert {key: shapes.get(key) for key in PUBLISHED} == PUBLISHED
    convolutions = [path for path, part in full.named_modules() if isinstance(part, nn.Conv2d)]
    bare = [path for path in convolutions if path.endswith("conv2d")]
    assert len(bare) == 10 + 20 + 9 + 1  # one a residual block, with a bias and without a norm
    assert len(shapes) == 6 * (len(convolutions) - len(bare)) + 2 * len(bare) + 2
    tops = {key.partition(".")[0] for key in shapes}
    stem = {"conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"}
    trunk = {"mixed_5b", "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b", "classif"}
    assert tops == stem | trunk


def test_its_maps_have_the_published_sizes(full):
    paths = ["maxpool_5a", "mixed_5b", "mixed_6a", "mixed_7a", "conv2d_7b"]
    with Taps(full, paths) as seen:
        assert full(torch.empty(1, 3, 299, 299, device="meta")).shape == (1, 1000)
    shapes = [tuple(seen[path].shape[1:]) for path in paths]
    assert shapes == [(192, 35, 35), (320, 35, 35), (1088, 17, 17), (2080, 8, 8), (1536, 8, 8)]


@pytest.mark.parametrize(("path", "scale", "last"), [("repeat.3", 0.17, False), ("block8", 1.0, True)])
def test_a_residual_block_adds_its_scaled_branches(path, scale, last):
    torch.manual_seed(0)
    block = InceptionResNetV2(4, width=8).eval().get_submodule(path)
    x = torch.randn(1, block.conv2d.out_channels, 9, 9)
    branches = [part for name, part in block.named_children() if name.startswith("branch")]
    with torch.no_grad():
        joined = torch.cat([branch(x) for branch in branches], 1)
        kernel = block.conv2d.weight[:, :, 0, 0]
        residual = torch.einsum("oc,nchw->nohw", kernel, joined) + block.conv2d.bias[None, :, None, None]
        wanted = x + scale * residual
        torch.testing.assert_close(block(x), wanted if last else wanted.clamp(min=0), rtol=1e-4, atol=1e-5)
    assert (block(x) < 0).any() == last


def test_it_is_frozen():
    made = eye()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    nn.Sequential(made).train()
    assert not any(part.training for part in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    made(torch.rand(2, 1, 32, 32) * 2 - 1)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_it_sees_lightness_thrice_at_its_own_size():
    made = eye()
    pictures = np.moveaxis(photos().numpy(), 1, -1)
    grey = torch.from_numpy(skimage.color.rgb2lab(pictures)[..., 0] / 50 - 1).float()[:, None]
    grown = F.interpolate(grey, size=(299, 299), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted = made.net(grown.contiguous())
    found = embed(made, photos())
    assert found.dtype == torch.float32
    assert found.shape == (2, 6)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3  # else the next line says nothing
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_weights_load_from_a_file_and_say_how_many_outputs(tmp_path):
    source = eye(seed=3)
    state = {key: value for key, value in source.net.state_dict().items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "inception.safetensors")
    loaded = load_inception(tmp_path / "inception.safetensors", width=8)
    assert loaded.outputs == 6
    assert torch.equal(embed(loaded, photos()), embed(source, photos()))


def test_other_weights_are_refused_and_nothing_changes(tmp_path):
    made = eye()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    state = dict(made.net.state_dict())
    files = {
        "resnet": ({"layer1.0.conv1.weight": torch.zeros(2, 2)}, "holds no Inception-ResNet-v2.*layer1.0.conv1.weight"),
        "thousand": (state | {"classif.weight": torch.zeros(5, 8)}, "gives 5 numbers a photo.*--outputs 5"),
        "half": ({k: v for k, v in state.items() if "block8" not in k}, "missing: block8.branch0.conv.weight"),
        "more": (state | {"aux.weight": torch.zeros(1)}, "1 unexpected: aux.weight"),
    }
    for name, (weights, message) in files.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in weights.items()}, path)
        with pytest.raises(ArtifactError, match=message):
            fill(made, path)
    (tmp_path / "noise.pth").write_bytes(b"no weights at all")
    with pytest.raises(ArtifactError, match="damaged"):
        load_inception(tmp_path / "noise.pth")
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
