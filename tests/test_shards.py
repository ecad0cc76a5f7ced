"""Packed folders against the plain folders they come from."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch

from compress import cli
from compress.core.errors import CompressError, DataError, UsageError
from compress.core.launch import launch
from compress.core.types import ImageSpec
from compress.kit.data import packing
from compress.kit.data.packing import Embedder, Recipe, pack
from compress.kit.data.sets import Batches, open_photos
from compress.kit.data.shards import is_packed, open_shards
from compress.kit.data.sources import find_sources
from compress.kit.images import letterbox, read_rgb
from compress.kit.infer import predict


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 8)


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def photo(path, seed, size=(40, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    PIL.Image.fromarray(coarse).resize(size[::-1], PIL.Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty photos, some in sub-folders, some PNG."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(60):
        photo(root / ("a" if number % 3 else ".") / f"p{number:03d}{'.png' if number % 7 == 0 else '.jpg'}", number)
    return root


def packed(folder, out, **recipe):
    return pack(find_sources([folder]), out, Recipe(**recipe), given=[str(folder)], advance=lambda note="": None)


def same(shards, photos):
    assert shards.names == photos.names
    assert all(np.array_equal(shards.original(i)["image"], photos.original(i)["image"]) for i in range(len(photos)))


@pytest.mark.parametrize("seed", [0, 3])
def test_a_packed_folder_is_the_folder(folder, tmp_path, seed):
    packed(folder, tmp_path / "s", shard_bytes=8000)
    assert len(list((tmp_path / "s").glob("*.arrow"))) > 1
    for split in ("train", "val", "test", "all"):
        shards, photos = open_shards(tmp_path / "s", split, seed=seed), open_photos([folder], split, seed=seed)
        same(shards, photos)
        assert shards.fingerprint == photos.fingerprint


def test_split_folders_stay_and_equal_names_in_them_too(tmp_path):
    for split, count in (("train", 30), ("test", 4)):
        for number in range(count):
            photo(tmp_path / "d" / split / f"{number:03d}.jpg", number + 100 * (split == "test"))
    packed(tmp_path / "d", tmp_path / "s")
    assert sorted(p.parent.name for p in (tmp_path / "s").glob("*/*.arrow")) == ["test", "train"]
    for split in ("train", "val", "test"):  # val is a slice of train
        same(open_shards(tmp_path / "s", split), open_photos([tmp_path / "d"], split))


def test_photos_of_one_name_are_kept_apart(tmp_path):
    for number, name in enumerate(("x/1.jpg", "y/1.jpg", "y/1.png")):
        photo(tmp_path / name, number)
    sources = find_sources([tmp_path / "x", tmp_path / "y"], [tmp_path / "x" / "1.jpg"])
    assert len(sources) == 3  # the one that was named twice is packed once
    assert len({source.name for source in sources}) == 3


def test_files_are_maintained_arrow_and_the_bytes_are_the_files(folder, tmp_path):
    packed(folder, tmp_path)
    table = pa.ipc.open_file(str(tmp_path / "shard-00000.arrow")).read_all()
    assert table.column_names == ["name", "image", "sha256"]
    names = dict(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert names["a/p001"] == (folder / "a" / "p001.jpg").read_bytes()
    listed = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    assert [name for shard in listed for name in shard["names"]] == table["name"].to_pylist()


def test_size_is_the_shorter_side_and_small_photos_stay(tmp_path):
    photo(tmp_path / "d" / "big.png", 1, (90, 120))
    photo(tmp_path / "d" / "small.png", 2, (20, 30))
    packed(tmp_path / "d", tmp_path / "s", size=45)
    shards = open_shards(tmp_path / "s")
    big, small = (shards.original(i)["image"] for i in range(2))
    assert big.shape == (45, 60, 3)
    reference = PIL.Image.open(tmp_path / "d" / "big.png").resize((60, 45), PIL.Image.Resampling.BILINEAR)
    assert np.abs(big.astype(int) - np.asarray(reference)).mean() < 2  # JPEG 95
    assert np.array_equal(small, read_rgb(tmp_path / "d" / "small.png"))


def mean_and_spread(frames):
    """An embedding anyone can check: the mean of every channel and its deviation."""
    assert frames.dtype == np.uint8 and frames.shape[1:] == (3, 24, 24)
    return np.concatenate([frames.mean((2, 3)), frames.std((2, 3))], 1).astype(np.float32)


SQUARE = Embedder(
    {"network": "means", "sha256": "0" * 64, "length": 6, "size": 24},
    lambda p: letterbox(p, (24, 24))[0],
    mean_and_spread,
)


def test_embeddings_are_computed_once_from_the_whole_photo(folder, tmp_path):
    packed(folder, tmp_path, embedder=SQUARE, shard_bytes=20000)
    shards, photos = open_shards(tmp_path, "test"), open_photos([folder], "test")
    for i in range(len(photos)):
        expected = mean_and_spread(letterbox(photos.original(i)["image"], (24, 24))[0].transpose(2, 0, 1)[None])[0]
        got = shards.vectors(i)["embedding"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=2.0**-11)
    assert shards.embedding["network"] == "means"
    assert shards.fingerprint != photos.fingerprint  # another network's embeddings are other data
    batch = Batches(shards, ImageSpec(), 32, batch=3, stop=2, workers=0).at(0)
    for index, vector in zip(batch["index"].tolist(), batch["embedding"], strict=True):
        assert np.array_equal(vector.numpy(), shards.vectors(index)["embedding"])


def test_the_frame_is_what_a_padding_network_is_shown():
    shown = []
    for size in ((40, 56), (57, 31), (9, 100), (24, 24)):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        predict(lambda image: shown.append(image) or image, ImageSpec(height=24, width=24, fit="pad"), picture)
        ours = letterbox(picture, (24, 24))[0].transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_allclose(ours, shown[-1][0], atol=1e-6)


def test_an_embedding_too_large_for_float16_is_refused(folder, tmp_path):
    huge = Embedder(SQUARE.settings, SQUARE.frame, lambda frames: np.full((len(frames), 6), 1e6, np.float32))
    with pytest.raises(DataError, match="float16"):
        packed(folder, tmp_path, embedder=huge)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_forked_workers_are_those_of_the_folder(folder, tmp_path, workers):
    packed(folder, tmp_path, shard_bytes=8000)
    shards, photos = open_shards(tmp_path, "train"), open_photos([folder], "train")
    _ = shards.original(0)  # opened before the fork
    ours = Batches(shards, ImageSpec(), 32, batch=4, stop=4, workers=workers)
    theirs = Batches(photos, ImageSpec(), 32, batch=4, stop=4, workers=0)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(ours, theirs, strict=True))


# ---- going on


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*.arrow")}


def test_what_stands_is_kept_and_what_is_missing_is_made(folder, tmp_path):
    packed(folder, tmp_path, shard_bytes=8000)
    before, manifest = stamps(tmp_path), (tmp_path / "manifest.json").read_bytes()
    packed(folder, tmp_path, shard_bytes=8000)
    assert stamps(tmp_path) == before
    (tmp_path / "shard-00001.arrow").unlink()
    data = (tmp_path / "shard-00002.arrow").read_bytes()
    (tmp_path / "shard-00002.arrow").write_bytes(data[:-100])
    packed(folder, tmp_path, shard_bytes=8000)
    after = stamps(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"shard-00001.arrow", "shard-00002.arrow"}
    assert (tmp_path / "manifest.json").read_bytes() == manifest


def test_a_changed_photo_or_setting_is_packed_anew(folder, tmp_path):
    copy = tmp_path / "d"
    shutil.copytree(folder, copy)
    packed(copy, tmp_path / "s", shard_bytes=8000)
    photo(copy / "a" / "p001.jpg", 999)
    (copy / "p057.jpg").unlink()
    packed(copy, tmp_path / "s", shard_bytes=8000)
    same(open_shards(tmp_path / "s"), open_photos([copy]))
    packed(copy, tmp_path / "s", shard_bytes=10**6)
    assert len(list((tmp_path / "s").glob("*.arrow"))) == 1  # no shard of before is left
    same(open_shards(tmp_path / "s"), open_photos([copy]))


def test_another_source_into_the_same_folder_is_refused(folder, tmp_path):
    photo(tmp_path / "d" / "1.jpg", 1)
    packed(folder, tmp_path / "s")
    with pytest.raises(UsageError, match="was packed from"):
        packed(tmp_path / "d", tmp_path / "s")
    same(open_shards(tmp_path / "s"), open_photos([folder]))


SLOW = """
import sys, time
from pathlib import Path
from compress.kit.data import packing
from compress.kit.data.packing import Recipe, pack
from compress.kit.data.sources import find_sources
read = packing._read
def slowly(*a):
    time.sleep(0.05)
    return read(*a)
packing._read, packing.CHUNK = slowly, 8
sources, out = find_sources([Path(sys.argv[1])]), Path(sys.argv[2])
pack(sources, out, Recipe(shard_bytes=8000), given=[sys.argv[1]], advance=lambda note="": None)
"""


def test_killed_in_the_middle_and_run_again(folder, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(tmp_path)])
    while not (tmp_path / "shard-00001.arrow").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(DataError, match="not packed to its end"):
        open_shards(tmp_path)
    before = stamps(tmp_path)
    packed(folder, tmp_path, shard_bytes=8000)
    assert before.items() <= stamps(tmp_path).items()
    same(open_shards(tmp_path), open_photos([folder]))


# ---- bad input


def test_broken_photos_are_left_out_and_told(tmp_path, capsys):
    for number in range(3):
        photo(tmp_path / "d" / f"{number}.jpg", number)
    (tmp_path / "d" / "cut.jpg").write_bytes((tmp_path / "d" / "0.jpg").read_bytes()[:200])
    (tmp_path / "d" / "empty.jpg").write_bytes(b"")
    assert run("pack", tmp_path / "d", "--out", tmp_path / "s", "--json") == 0
    out, err = capsys.readouterr()
    assert {key: json.loads(out)[key] for key in ("photos", "left_out")} == {"photos": 3, "left_out": 2}
    assert err.count("left out: ") == 2 and "2 of 5 photos" in err
    assert len(open_shards(tmp_path / "s")) == 3
    assert run("pack", tmp_path / "d", "--out", tmp_path / "s", "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 2  # known, not tried again


def test_nothing_but_broken_photos_leaves_nothing(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_text("<html>")
    assert run("pack", tmp_path / "d", "--out", tmp_path / "s") == 2
    assert "none of 1 photos" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


DAMAGE = {
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-50]),
    "empty": lambda p: p.write_bytes(b""),
    "absent": lambda p: p.unlink(),
    "other bytes": lambda p: p.write_bytes(b"x" * p.stat().st_size),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_shard_is_one_clear_error(folder, tmp_path, how):
    packed(folder, tmp_path)
    DAMAGE[how](tmp_path / "shard-00000.arrow")
    with pytest.raises(DataError, match=r"shard-00000.arrow.*compress pack"):
        open_shards(tmp_path).original(0)


def test_a_damaged_picture_names_shard_and_photo(folder, tmp_path):
    packed(folder, tmp_path)
    path = tmp_path / "shard-00000.arrow"
    damaged = bytearray(path.read_bytes())
    place = damaged.find((folder / "a" / "p001.jpg").read_bytes())
    damaged[place : place + 300] = bytes(300)
    path.write_bytes(damaged)
    shards = open_shards(tmp_path)
    with pytest.raises(DataError, match=r"shard-00000.arrow: a/p001"):
        shards.original(shards.names.index("a/p001"))


OURS = '{"kind": "image-compress shards", "schema": '


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"kind": "x"}', OURS + "99}", OURS + '1, "shards": [{}], "sources": []}']
)
def test_a_bad_manifest_is_one_clear_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CompressError) as caught:
        open_shards(tmp_path)
    assert isinstance(caught.value, DataError) and "\n" not in str(caught.value)


def test_is_packed_knows_its_own(folder, tmp_path):
    assert not is_packed(folder) and not is_packed(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"schema": 1, "format": "onnx"}')  # an artifact's
    assert not is_packed(tmp_path)
    packed(folder, tmp_path / "s")
    assert is_packed(tmp_path / "s")
