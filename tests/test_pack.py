"""`compress pack` as a user types it: embeddings of a file or of a model, and mistakes."""

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from compress import cli
from compress.core.launch import launch
from compress.core.store import Store, sha256_of
from compress.kit.data.shards import open_shards
from compress.kit.infer import predict
from compress.kit.nets.inception import GreyEye, InceptionResNetV2
from compress.tasks import TASKS


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def photo(path, seed, size=(40, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    PIL.Image.fromarray(coarse).resize(size[::-1], PIL.Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for number in range(count):
            photo(tmp_path / "d" / split / f"{number}.jpg", number + len(split))
    return tmp_path / "d"


@pytest.fixture
def weights(tmp_path):
    """A network of Inception-ResNet-v2's names, four channels wide, with eleven outputs."""
    torch.manual_seed(0)
    save_file(InceptionResNetV2(11, 4).state_dict(), tmp_path / "eye.safetensors")
    return tmp_path / "eye.safetensors"


def seen(weights, photo, size):
    """What the colorizer's own network says of a photo that is brought in as for colouring."""
    from safetensors.torch import load_file

    eye = GreyEye(11, 4)
    eye.net.load_state_dict(load_file(weights))
    shown = []
    spec = replace(TASKS.get("color").input, height=size, width=size)
    predict(lambda image: shown.append(image) or image, spec, photo)
    with torch.no_grad():
        return eye(torch.from_numpy(shown[-1]))[0].numpy()


def test_embeddings_are_the_colorizers_own(photos, weights, tmp_path, monkeypatch, capsys):
    """From a file and from a model trained with it: the same vectors, and training takes them up."""
    from compress.kit.nets import inception

    monkeypatch.setattr(inception, "load_inception", lambda path, full=inception.load_inception: full(path, width=4))
    assert run("pack", photos, "--out", tmp_path / "a", "--inception", weights, "--training-size", 64, "--json") == 0
    told = json.loads(capsys.readouterr().out)["embedding"]
    assert told == {"network": "inception_resnet_v2", "sha256": sha256_of(weights), "length": 11, "size": 64,
                    "dtype": "float16"}  # fmt: skip
    shards = open_shards(tmp_path / "a")
    for index in range(len(shards)):
        expected = seen(weights, shards.original(index)["image"], 64)
        np.testing.assert_allclose(shards.vectors(index)["embedding"], expected, rtol=1e-3, atol=1e-3)
    tiny = ["--steps", 1, "--size", 64, "--batch", 2, "--width", 4, "--workers", 0, "--precision", 32]
    line = ["train", "--teacher", "colorizer", "--features", "inception", "--outputs", 11, "--inception", weights]
    assert run(*line, *tiny, "--data", tmp_path / "a", "--store", tmp_path / "s") == 0
    (model,) = Store(tmp_path / "s").artifacts()
    assert run("pack", photos, "--out", tmp_path / "b", "--embeddings", model.id, "--store", tmp_path / "s") == 0
    other = open_shards(tmp_path / "b")
    assert other.embedding["sha256"] == sha256_of(weights)  # of the same weights, however they are named
    assert other.embedding["size"] == 64  # the model's own
    assert all(np.array_equal(other.vectors(i)["embedding"], shards.vectors(i)["embedding"]) for i in range(7))


def test_features_that_are_still_trained_are_refused(photos, tmp_path, capsys):
    tiny = ["--steps", 1, "--size", 32, "--batch", 2, "--width", 4, "--workers", 0, "--precision", 32]
    assert run("train", "--teacher", "colorizer", *tiny, "--data", photos, "--store", tmp_path / "s") == 0
    assert run("pack", photos, "--embeddings", "colorizer", "--store", tmp_path / "s", "--out", tmp_path / "p") == 2
    assert "changes while it is trained" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("pack nowhere", 2, "no photo nowhere"),
        ("pack list.txt", 2, "lists no address"),
        ("pack notes.md", 2, "notes.md"),
        ("pack . --size 0", 2, "--size is 0"),
        ("pack . --training-size 64", 2, "--inception"),
        ("pack a --inception no.bin --embeddings x", 2, "exclude each other"),
        ("pack a --inception no.bin", 4, "no weights file"),
        ("pack a --embeddings nothing", 4, "no artifact 'nothing'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, line, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    (tmp_path / "notes.md").write_text("x")
    photo(tmp_path / "a" / "1.jpg", 1)
    assert run(*line.split()) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not (tmp_path / "shards").exists()
