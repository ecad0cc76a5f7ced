"""Trainings side by side: the answers against slow loops, the page from a store made by hand, what is refused."""

import base64
import html.parser
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from compress import cli
from compress.core.launch import launch
from compress.core.machine import this_machine
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from reports.curves import BINS, smooth
from reports.growth import grown
from reports.training import crossings, levels_of, read_run

EPOCHS = (1.0, 2.0, 4.0, 7.0, 15.0, 30.0, 60.0)
PACE = 20  # steps an epoch


def loss_at(epoch, floor, half):
    return floor + (3.0 - floor) * 0.5 ** (epoch / half)


def miou_of(loss):
    return float(np.clip(1.1 - 0.7 * loss, 0.02, 1))


def history(floor, half, epochs=EPOCHS):
    steps = [{"step": k, "loss": loss_at(k / PACE, 0.8 * floor, half)} for k in range(1, int(epochs[-1] * PACE) + 1)]
    looks = [{"step": e * PACE, "epoch": e, "loss": loss_at(e, floor, half), "images": 4.0} for e in epochs]
    return {"steps": steps, "validations": [look | {"miou": miou_of(look["loss"])} for look in looks]}


def publish(store, name, record, photo_seed=0, **fields):
    base = dict(
        id="", name=name, kind="teacher", task="segmentation", network=name, network_options={}, format="safetensors",
        dtype="float32", method="train", options={"teacher": name, "lr": 1e-4}, parent="", parent_sha256="",
        teacher="", key=name, input=ImageSpec(), output=ImageSpec(), files=(), parameters=12_000, macs=1, data="d1",
        metrics={}, machine=this_machine(), seed=0, versions={}, commit="", created="2026-01-02", seconds=1.0,
    )  # fmt: skip
    with store.draft() as folder:
        (folder / "weights.safetensors").write_bytes(name.encode())
        if record is not None:
            (folder / "history.json").write_text(record if isinstance(record, str) else json.dumps(record))
        looks = record["validations"] if isinstance(record, dict) else []
        random = np.random.default_rng(photo_seed)
        for number in range(2 if looks else 0):
            shots = {
                f"pictures/step-{int(look['step']):06d}/{number:02d}.mask.png": int(look["step"]) for look in looks
            }
            shots[f"pictures/truth/{number:02d}.mask.png"] = 3
            for path, shade in shots.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (30, 20), (shade % 256, 40, 90)).save(folder / path)
            photo = folder / "pictures" / "photo" / f"{number:02d}.photo.png"
            photo.parent.mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(photo)
        return store.publish(folder, Artifact(**(base | fields)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    publish(store, "plain_unet", history(1.4, 12))
    publish(store, "vgg_unet", history(0.7, 4))
    publish(store, "elsewhere", history(0.7, 4, (3.0, 9.0)), photo_seed=1, data="d2")
    publish(store, "blind", {"steps": [{"step": 1, "loss": 1.0}], "validations": []})
    publish(store, "old", json.dumps([{"step": 1, "loss": 1.0}]))
    publish(store, "silent", None)
    publish(store, "broken", '{"validations": [{"step": 1, "epoch": 0.1}], "steps": []}')
    publish(store, "endless", '{"validations": [{"step": 1, "epoch": 0.1, "loss": NaN}], "steps": []}')
    publish(store, "mask", history(0.5, 3), task="saliency")
    return store


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def read(store, name):
    return read_run(store, store.get(name), name, "miou")


def test_a_crossing_is_the_best_cut_of_a_slow_search():
    random = np.random.default_rng(0)
    losses = random.uniform(0.3, 2, 40)
    points = [(float(x), float(1.2 - 0.5 * x + random.normal(0, 0.06))) for x in losses]
    best = max(metric for _, metric in points)
    for found in crossings(points, (0.4, 0.6, 0.8)):
        wanted = [metric >= found.fraction * best for _, metric in points]

        def errors(cut, wanted=wanted):
            return sum((x <= cut) != good for (x, _), good in zip(points, wanted, strict=True))

        fewest = min(errors(x + step) for x in losses for step in (-1e-9, 1e-9))
        assert found.wrong == fewest == errors(found.loss)
        assert found.low <= found.loss <= found.high
        assert errors(found.low - 1e-9) > fewest or found.low == min(losses)
        assert errors(found.high + 1e-9) > fewest


def test_a_loss_that_tells_nothing_is_said_to():
    random = np.random.default_rng(1)
    noise = [(float(x), float(y)) for x, y in random.uniform(0, 1, (60, 2))]
    assert "does not tell" in crossings(noise, (0.5,))[0].why
    flat = [(float(k), 0.5) for k in range(9)]
    assert crossings(flat, (0.9,))[0].why == "all of 9 looks reach it"
    assert crossings([(1.0, 0.1), (0.9, 0.1), (0.5, 1.0)], (0.5,))[0].why == "1 of 3 looks reach it"
    assert crossings([(1.0, v) for v in (0, 0, 1, 1)], (0.5,))[0].loss is None
    assert crossings([], (0.5,)) == []


def test_epochs_to_a_loss_are_those_of_a_loop(store):
    runs = [read(store, "plain_unet"), read(store, "vgg_unet")]
    levels = levels_of(runs)
    assert [level.loss for level in levels] == sorted({level.loss for level in levels}, reverse=True)
    assert len(levels) >= 4
    for level in levels:
        for epoch, (floor, half) in zip(level.epochs, ((1.4, 12), (0.7, 4)), strict=True):
            assert epoch == next((e for e in EPOCHS if loss_at(e, floor, half) <= level.loss), None)
    (common,) = [level for level in levels if level.common]
    assert common.loss == pytest.approx(loss_at(60, 1.4, 12))
    assert common.epochs == (60.0, 7.0)
    assert levels[-1].epochs[0] is None  # never


def test_a_history_is_read_with_its_epochs(store):
    found = read(store, "plain_unet")
    assert len(found.steps) == 60 * PACE
    assert found.steps[-1][0] == pytest.approx(60)
    assert found.steps[PACE - 1] == pytest.approx((1.0, loss_at(1, 0.8 * 1.4, 12)))
    assert [v.epoch for v in found.validations] == list(EPOCHS)


def test_smoothing_keeps_the_mean():
    points = [(float(k), float(np.sin(k))) for k in range(16 * BINS)]
    assert len(smooth(points)) == BINS
    assert np.mean(smooth(points), axis=0) == pytest.approx(np.mean(points, axis=0))
    assert smooth(points[:9]) == points[:9]


def test_pictures_are_those_of_the_last_look_before_an_epoch(store, tmp_path):
    late = publish(Store(tmp_path), "late", history(0.7, 4, (3.0, 9.0)))
    runs = [("a", store.folder(store.get("vgg_unet")), read(store, "vgg_unet").validations)]
    runs.append(("b", tmp_path / late.id, read_run(Store(tmp_path), late, "b", "miou").validations))
    photos, remark = grown(runs, "mask")
    assert (len(photos), remark) == (2, "")
    lines = dict(photos[0].lines)
    assert lines["1.00"][1].shot is None
    assert lines["1.00"][1].note == "no look yet"
    assert lines["60.0"][0].note.startswith("epoch 60.0, loss 0.70")
    assert lines["60.0"][1].note.startswith("epoch 9.00")
    assert photos[0].truth.alt == "mask as it should be, photo 1"
    assert 4 <= len(lines) <= 9


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.alone = [], [], {"meta", "img", "source", "br", "link"}

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.alone:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_answers(store, capsys, tmp_path):
    code = run("compare-training", "plain_unet", "vgg_unet", "--store", store.root, "--out", tmp_path / "o", "--json")
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    text = (tmp_path / "o" / "index.html").read_text()
    assert told == {"html": str(tmp_path / "o" / "index.html"), "json": str(tmp_path / "o" / "training.json")}
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    assert "plain_unet needs 60.0 epochs to its best validation loss of 1.450; vgg_unet 7.00, 8.57 times fewer." in text
    assert "never" in text
    plots = [a for a in reader.addresses if a.startswith("data:image/svg")]
    assert len(plots) == 6  # three, light and dark
    for plot in plots:
        ElementTree.fromstring(base64.b64decode(plot.partition(",")[2]))
    assert len(re.findall(r"data:image/jpeg", text)) >= 2 * (2 + 2 * 6)
    assert len(text) < 3_000_000
    numbers = json.loads((tmp_path / "o" / "training.json").read_text())
    half = next(c for c in numbers["plausible"] if c["fraction"] == 0.5)
    best = miou_of(0.7 + 2.3 * 0.5**15)
    assert half["low"] <= (1.1 - 0.5 * best) / 0.7 <= half["high"]
    assert half["wrong"] == 0
    assert [run["name"] for run in numbers["runs"]] == ["plain_unet", "vgg_unet"]


def test_equal_runs_give_the_same_page(store, tmp_path):
    for name in ("a", "b"):
        assert run("compare-training", "plain_unet", "vgg_unet", "--store", store.root, "--out", tmp_path / name) == 0
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_runs_on_other_photos_are_told_apart(store, tmp_path):
    assert run("compare-training", "vgg_unet", "elsewhere", "--store", store.root, "--out", tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert "learned from different data" in text
    assert "pictures of different photos" in text
    assert 'id="pictures"' not in text


def test_a_metric_that_is_absent_leaves_the_losses(store, tmp_path):
    twin = publish(store, "mask", history(0.6, 5), task="saliency", created="2026-02-02")
    first = next(a for a in store.artifacts() if a.task == "saliency" and a.id != twin.id)
    assert run("compare-training", first.id, twin.id, "--store", store.root, "--out", tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert "can't be told" in text
    assert f"mask {twin.id[:6]}" in text  # of one name, they go by their ids


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        ("vgg_unet", 2, "one run alone"),
        ("vgg_unet vgg_unet", 2, "one run alone"),
        ("vgg_unet blind", 2, "--validate-every"),
        ("vgg_unet old", 2, "never looked"),
        ("vgg_unet silent", 2, "no history.json"),
        ("vgg_unet broken", 4, "is no history"),
        ("vgg_unet endless", 4, "is no history"),
        ("vgg_unet mask", 2, "saliency and segmentation"),
        ("vgg_unet nothing", 4, "no artifact 'nothing'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(store, tmp_path, capsys, names, code, words):
    assert run("compare-training", *names.split(), "--store", store.root, "--out", tmp_path / "o") == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert not (tmp_path / "o").exists()


def test_a_dry_run_writes_nothing(store, tmp_path, capsys):
    assert run("compare-training", "vgg_unet", "plain_unet", "--store", store.root, "--out", tmp_path / "o",
               "--dry-run") == 0  # fmt: skip
    assert "would compare vgg_unet, plain_unet" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()
