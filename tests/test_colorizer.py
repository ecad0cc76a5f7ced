"""Networks that colour: parameters by formula, any size, fusion and doubling by hand, ONNX, what they are taught."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import find_network
from compress.core.store import sha256_of
from compress.formats.onnx import Onnx, OnnxRunner
from compress.kit.data.sets import Dataset
from compress.kit.graph import count_parameters
from compress.kit.images import letterbox
from compress.kit.lab import lightness_tensor
from compress.kit.nets.colorizer import SmallFeatures
from compress.kit.nets.inception import GreyEye, embed
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

TASK = TASKS.get("color")
NAMES = ["colorizer", "iizuka", "colorizer_small"]
# S7's table: encoder, then the decoder's convolutions
ENCODER = (64, 128, 128, 256, 256, 512, 512, 256)
DECODER = (128, 64, 64, 32, 2)


def of_task(name, seed=0, **options):
    torch.manual_seed(seed)
    return find_network(name).build(**options).eval()


def conv(source, width, kernel=3):
    return kernel * kernel * source * width + width


def chain(source, widths, cost=conv):
    return sum(cost(a, b) for a, b in zip((source, *widths), widths, strict=False))


def normed(source, width, kernel=3):
    return conv(source, width, kernel) + width  # no bias, but two values a channel of the norm


def photos(count=2, height=40, width=56):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def test_the_colorizer_has_the_parameters_of_s7_s_table():
    with torch.device("meta"):
        net = find_network("colorizer").build()
    own = chain(1, ENCODER) + conv(256 + 1001, 256, 1) + chain(256, DECODER)
    assert own == 6_574_050
    small = chain(1, (32, 64, 128, 256, 256), normed) + 256 * 1001 + 1001
    assert count_parameters(net.features) == small
    assert count_parameters(net) == own + small == find_network("colorizer").parameters


def test_with_inception_only_the_table_is_trained():
    with torch.device("meta"):
        net = find_network("colorizer").build(features="inception", outputs=1000)
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert trained == 6_574_050 - 256
    assert count_parameters(net) == trained + 55_843_464


def test_iizuka_has_the_parameters_of_its_table():
    low, middle = chain(1, (64, 128, 128, 256, 256, 512), normed), chain(512, (512, 256), normed)
    far = chain(512, (512, 512, 512, 512), normed)
    dense = chain(7 * 7 * 512, (1024, 512, 256), lambda a, b: a * b + b)
    colour = normed(512, 256, 1) + chain(256, DECODER[:-1], normed) + conv(32, 2)
    assert find_network("iizuka").parameters == low + middle + far + dense + colour


def test_the_student_is_a_tenth_of_what_its_teachers_train():
    assert find_network("colorizer_small").parameters <= 6_574_050 / 10
    assert all(find_network(name).student == "colorizer_small" for name in NAMES[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (16, 17), (31, 50)], ids=str)
def test_any_size_comes_back(name, size):
    raw, middle, fused = of_task(name, width=8)(torch.zeros(1, 1, *size))
    quarter, eighth = (tuple(-(-side // part) for side in size) for part in (4, 8))
    assert raw.shape == (1, 2, *size)
    assert middle.shape[2:] == quarter
    assert fused.shape[2:] == eighth


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_repeated_two_by_two(name):
    with torch.no_grad():
        raw = of_task(name, width=8)(torch.rand(1, 1, 33, 46))[0]
    corners = raw[:, :, ::2, ::2]
    assert torch.equal(corners.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :33], raw)
    assert corners.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_near_grey(name):
    with torch.no_grad():
        picture = TASK.activate(of_task(name)(torch.rand(1, 1, 64, 64) * 2 - 1)[0])
    assert picture.abs().mean() < 0.1


def test_the_vector_lies_beside_every_pixel():
    net = of_task("colorizer", width=8)
    image = torch.rand(2, 1, 24, 32) * 2 - 1
    with torch.no_grad():
        maps, vector, fused = net.encoder(image), net.features(image), net(image)[2]
        weight, bias = net.fusion[0].weight[:, :, 0, 0], net.fusion[0].bias
        for n, y, x in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
            wanted = weight @ torch.cat([maps[n, :, y, x], vector[n]]) + bias
            torch.testing.assert_close(fused[n, :, y, x], wanted.clamp(min=0), rtol=1e-4, atol=1e-5)


def inception_net(outputs=6, seed=0):
    """A narrow one whose Inception's norms have seen pictures, as after training, so that pictures reach its end."""
    net = of_task("colorizer", seed, width=8, features="inception", outputs=outputs)
    norms = [part for part in net.features.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    net.features(torch.rand(4, 1, 24, 24) * 2 - 1)
    for norm in norms:
        norm.momentum, norm.training = 0.1, False
    return net


def test_an_embedding_stands_for_the_frozen_network():
    net = inception_net()
    image = lightness_tensor(photos()) / 127.5 - 1
    embedding = embed(net.features, photos())
    net.features.register_forward_hook(calls := Calls())
    with torch.no_grad():
        given = net(image, embedding)
        assert calls.count == 0
        run = net(image)
        other = net(image, embedding.flip(0))
    assert calls.count == 1
    for a, b in zip(given, run, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (other[0] - run[0]).abs().max() > 1e-4
    with pytest.raises(UsageError, match="have 5 numbers a photo, the network takes 6"):
        net(image, torch.zeros(2, 5))


class Calls:
    """Counts how often a module runs."""

    count = 0

    def __call__(self, *_):
        self.count += 1


def test_features_that_learn_are_not_replaced_by_an_embedding():
    net = of_task("colorizer", width=8)
    image = torch.rand(2, 1, 16, 16)
    assert torch.equal(net(image, torch.zeros(2, 99))[0], net(image)[0])


def test_iizuka_runs_its_low_features_once_where_sizes_agree():
    net = of_task("iizuka", width=4)
    image = torch.rand(1, 1, 224, 224)
    net.low.register_forward_hook(calls := Calls())
    with torch.no_grad():
        twice = net(image)
        assert calls.count == 2
        net.training = True  # its norms stay in eval mode, so that only the short cut differs
        once = net(image)
    assert calls.count == 3
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES[1:])  # the student is the colorizer, with norms
def test_onnx_agrees_at_odd_sizes(name, tmp_path):
    net = Shipped(of_task(name, width=8), TASK.activate).eval()
    spec = replace(TASK.input, height=32, width=32)
    export = Onnx().write(net, tmp_path / "net.onnx", input=spec, output=TASK.output, size=(32, 32))
    assert export.dynamic, export.reason
    runner = OnnxRunner(tmp_path / "net.onnx", threads=1)
    for seed, size in enumerate([(37, 53), (16, 16), (63, 31)]):
        image = np.random.default_rng(seed).standard_normal((1, 1, *size), np.float32)
        with torch.no_grad():
            wanted = net(torch.from_numpy(image)).numpy()
        assert np.abs(runner(image) - wanted).max() < 1e-4
    runner.close()


class Nothing(Dataset):
    """Photos without embeddings."""

    names, fingerprint = ("one",), "one"

    def original(self, index):
        return {"image": np.moveaxis(photos(1)[index].numpy(), 0, -1)}


class Packed(Nothing):
    """Photos with embeddings of a size, as a packed folder gives them."""

    embedding = {"size": 48, "length": 6}  # noqa: RUF012

    def __init__(self, vector):
        self.vector = vector

    def vectors(self, index):
        return {"embedding": self.vector}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(dict(inception_net(seed=5).features.net.state_dict()), path)
    return path


def lesson(data=None, **flags):
    return find_network("colorizer").teach(TASK, data or Nothing(), **flags)


def test_inception_s_weights_are_loaded_before_it_learns(weights):
    net, source = inception_net(), inception_net(seed=5)
    made = lesson(inception=weights)
    assert made.settings == {"inception": sha256_of(weights)}
    made.prepare(net)
    assert torch.equal(embed(net.features, photos()), embed(source.features, photos()))
    assert lesson().settings == {"inception": ""}


def test_features_and_weights_must_fit_each_other(weights, tmp_path):
    with pytest.raises(UsageError, match=r"need its weights.*--inception FILE"):
        lesson().prepare(inception_net())
    with pytest.raises(UsageError, match="features are small"):
        lesson(inception=weights).prepare(of_task("colorizer", width=8))
    with pytest.raises(ArtifactError, match=r"gives 6 numbers.*--outputs 6"):
        lesson(inception=weights).prepare(inception_net(outputs=7))
    with pytest.raises(ArtifactError, match="no weights file"):
        lesson(inception=tmp_path / "none.pth")
    lesson().prepare(of_task("colorizer", width=8))
    for wrong in ({"features": "vgg"}, {"outputs": 0}):
        with pytest.raises(UsageError):
            find_network("colorizer").build(width=8, **wrong)


def test_embeddings_of_other_weights_are_refused(weights):
    frame = torch.from_numpy(letterbox(Nothing().original(0)["image"], (48, 48))[0]).permute(2, 0, 1)[None]
    own, other = (embed(inception_net(seed=seed).features, frame)[0].half().float().numpy() for seed in (5, 6))
    lesson(Packed(own), inception=weights).prepare(inception_net())
    with pytest.raises(UsageError, match="made by other weights"):
        lesson(Packed(other), inception=weights).prepare(inception_net())
    with pytest.raises(UsageError, match="have 5 numbers"):
        lesson(Packed(own[:5]), inception=weights).prepare(inception_net())


def test_it_is_fed_the_embedding_where_the_batch_has_one():
    image, embedding = torch.zeros(1, 1, 8, 8), torch.zeros(1, 6)
    feed = lesson().feed
    assert feed({"image": image, "target": image}) == (image,)
    assert feed({"image": image, "embedding": embedding}) == (image, embedding)


@pytest.mark.parametrize("features", ["small", "inception"])
def test_training_moves_everything_but_inception(features):
    net = of_task("colorizer", width=8, features=features, outputs=6).train()
    batch = {"image": lightness_tensor(photos()) / 127.5 - 1, "target": photos() / 255.0}
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        TASK.loss(net(*lesson().feed(batch)), batch)["loss"].backward()
        optimizer.step()
    kept = {key for key, value in net.state_dict().items() if torch.equal(value, before[key])}
    frozen = {key for key in before if key.startswith("features.")} if features == "inception" else set()
    assert isinstance(net.features, GreyEye if features == "inception" else SmallFeatures)
    assert kept == frozen


def test_a_few_steps_beat_grey_on_what_was_seen():
    y, x = np.mgrid[:32, :32] * 8
    pair = np.stack([np.stack([y, x, 255 - y]), np.stack([255 - x, y, x])]).astype(np.uint8)
    batch = {"image": lightness_tensor(torch.from_numpy(pair)) / 127.5 - 1, "target": torch.from_numpy(pair) / 255.0}
    grey = TASK.loss([torch.zeros(2, 2, 32, 32)], batch)["loss"].item()
    for name in NAMES:
        net = of_task(name, width=16).train()
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(25):
            optimizer.zero_grad()
            loss = TASK.loss(net(batch["image"]), batch)["loss"]
            loss.backward()
            optimizer.step()
        assert loss.item() < grey / 2, name
