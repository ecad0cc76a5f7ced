"""The demo's page in real browsers, with a network that a line of numpy states."""

import shutil

import numpy as np
import PIL.Image
import pytest
import web_fixtures
from browsers import needs_chromium, needs_firefox
from demo_site import job, nearly, node_tests, serve
from web_fixtures import SPEC, exhibit

from compress.jobs.demo import write_demo
from compress.kit.images import read_rgb
from compress.kit.infer import predict
from compress.tasks import TASKS

UPRIGHT = 6  # EXIF orientation of a camera held upright
CARD = 0x0112  # EXIF tag of it


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    exhibits = [exhibit(folder), exhibit(folder, "cells", task="membrane"), exhibit(folder, "slow")]
    write_demo(exhibits, folder / "site" / "some" / "where")
    with serve(folder / "site") as address:
        yield f"{address}some/where/"


def pictures_of(path):
    photo = read_rgb(path)
    return TASKS.get("saliency").pictures(photo, predict(web_fixtures.pointwise, SPEC, photo))


@pytest.fixture
def photos(tmp_path):
    photo, turned = tmp_path / "photo.png", tmp_path / "turned.jpg"
    PIL.Image.fromarray(web_fixtures.photo(200, 150)).save(photo)
    exif = PIL.Image.Exif()
    exif[CARD] = UPRIGHT
    PIL.Image.fromarray(web_fixtures.photo(40, 60)).save(turned, quality=95, subsampling=0, exif=exif)
    return photo, turned


def refused(folder, photo):
    """Files that are no photos or too large, and words of what the page says of each."""
    content = photo.read_bytes()
    made = {
        "note.jpg": (b"not a photo at all", "not an image"),
        "empty.png": (b"", "file is empty"),
        "cut.png": (content[:300], "PNG file is damaged: its end is missing"),
        "spoilt.png": (content[:60] + bytes(200) + content[260:], "PNG file is damaged: it can't be decoded"),
        "scan.tif": (b"II*\0" + bytes(100), "can't read this TIFF file.*Save it as JPEG or PNG"),
    }
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    with (folder / "long.png").open("wb") as stream:
        stream.truncate(100_000_001)
    PIL.Image.new("1", (8000, 5001)).save(folder / "wide.png")
    said = {name: words for name, (_, words) in made.items()}
    said |= {
        "long.png": "has 100 MB; at most 100 can be read",
        "wide.png": "has 40 megapixels .8000 × 5001.; at most 40",
    }
    return [(str(folder / name), words) for name, words in said.items()]


@pytest.mark.parametrize(
    ("kind", "backends"),
    [
        pytest.param("chromium", ["wasm", "webgl"], marks=needs_chromium),
        pytest.param("firefox", ["wasm", "cpu"], marks=needs_firefox),
    ],
)
def test_a_photo_gives_what_it_gives_in_python(kind, backends, served, photos, tmp_path):
    photo, turned = photos
    told = job(served, kind, tmp_path, backends=backends, photo=str(photo), turned=str(turned),
               refused=refused(tmp_path, photo))  # fmt: skip
    try:
        node_tests("page.test.js", DEMO=told)
    finally:
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    wanted = pictures_of(photo)
    for backend in backends:
        mask, cutout = (PIL.Image.open(tmp_path / f"{backend}.{name}.png") for name in ("mask", "cutout"))
        assert (mask.mode, cutout.mode, mask.size) == ("L", "RGBA", (150, 200))
        assert nearly(mask, wanted["mask"]) and nearly(cutout.getchannel("A"), wanted["mask"])
        assert np.array_equal(np.asarray(cutout)[..., :3], np.asarray(wanted["cutout"])[..., :3])
    assert nearly(PIL.Image.open(tmp_path / "pasted.mask.png"), wanted["mask"])
    found, right = PIL.Image.open(tmp_path / "turned.cutout.png"), pictures_of(turned)["cutout"]
    assert found.size == right.size == (40, 60)
    assert np.abs(np.asarray(found, int) - np.asarray(right, int)).mean() < 1  # decoders of JPEG differ by a level
