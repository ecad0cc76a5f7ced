"""Colour: its loss and metrics against scikit-image and plain loops, its data, its distillation, its commands."""

import json

import numpy as np
import PIL.Image
import pytest
import skimage.color
import skimage.metrics
import torch
from distilling import distil

from compress import cli
from compress.core.errors import DataError, UsageError
from compress.core.launch import launch
from compress.kit.data.degrade import Crops
from compress.kit.data.sets import Batches, Dataset
from compress.tasks import TASKS, color

TASK = TASKS.get("color")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height=40, width=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5, x * 4, 255 - y * 3], axis=-1).clip(0, 255).astype(np.uint8)


def grey(height=40, width=48):
    return np.repeat(smooth(height, width)[..., :1], 3, axis=-1)


def ab_of(photo):
    """a* and b* over 128, (2, H, W), by scikit-image."""
    return np.moveaxis(skimage.color.rgb2lab(photo)[..., 1:], -1, 0).astype(np.float32) / 128


def tensor(photo):
    return torch.from_numpy(np.moveaxis(photo, -1, 0).copy()).float()[None] / 255


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for index in range(count):
            save(root / split / f"{index}.png", np.roll(smooth(), index * 7, axis=1))
    return root


def test_scores_are_those_of_loops_and_scikit_image():
    target, guess = smooth(), ab_of(noise(40, 48, 3)) * 0.4
    score = TASK.score(guess, target)
    pairs = list(zip(guess.ravel().tolist(), ab_of(target).ravel().tolist(), strict=True))
    assert score["loss"] == pytest.approx(sum((p - t) ** 2 for p, t in pairs) / len(pairs), rel=1e-4)
    assert score["mae"] == pytest.approx(sum(abs(p - t) for p, t in pairs) / len(pairs), rel=1e-4)
    true = skimage.color.rgb2lab(target)
    picture = skimage.color.lab2rgb(np.concatenate([true[..., :1], np.moveaxis(guess, 0, -1) * 128.0], axis=-1))
    psnr = skimage.metrics.peak_signal_noise_ratio(target / 255.0, picture, data_range=1.0)
    assert score["psnr"] == pytest.approx(psnr, rel=1e-4)
    colours = skimage.color.deltaE_ciede2000(true, skimage.color.rgb2lab(picture)).mean()
    assert score["deltae"] == pytest.approx(colours, rel=1e-3)


def test_its_own_colours_are_the_best_prediction():
    for prediction in (ab_of(smooth()), TASK.as_prediction(smooth())):
        score = TASK.score(prediction, smooth())
        assert score["loss"] < 1e-9
        assert score["psnr"] > 80
        assert score["deltae"] < 0.01
        assert score["colorfulness"] == pytest.approx(score["true"], rel=1e-3)


def test_grey_scores_the_photo_s_own_ab_and_no_colorfulness():
    baseline = TASK.baseline(Crops("train"))
    assert baseline.name == "grey (ab = 0)"
    score = TASK.score(baseline.guess(smooth()), smooth())
    assert score["loss"] == pytest.approx(float(np.square(ab_of(smooth())).mean()), rel=1e-4)
    assert score["colorfulness"] < 0.1
    assert score["dead"] == 1.0


def test_a_flat_tint_is_dead_only_where_the_photo_has_colours():
    sepia = np.ones((2, 8, 8), np.float32) * np.array([0.1, 0.3], np.float32)[:, None, None]
    assert TASK.score(sepia, smooth())["dead"] == 1.0
    assert TASK.score(np.full((2, 8, 8), np.nan, np.float32), smooth())["dead"] == 1.0
    assert TASK.score(sepia, grey())["dead"] == 0.0
    assert TASK.score(ab_of(smooth()), smooth())["dead"] == 0.0


def test_the_ratio_is_of_the_whole_set():
    scores = [TASK.score(ab_of(smooth()) * 0.5, smooth()), TASK.score(np.zeros((2, 8, 8), np.float32), grey())]
    summary = TASK.summarize(scores)
    assert summary["colorfulness_ratio"] == pytest.approx(scores[0]["colorfulness"] / scores[0]["true"], rel=1e-3)
    assert 0.2 < summary["colorfulness_ratio"] < 0.8
    assert TASK.summarize(scores[1:])["colorfulness_ratio"] == 0.0


def test_the_picture_keeps_the_photo_s_lightness():
    photo, guess = smooth(45, 70), ab_of(noise(9, 7, 3)) * 0.1
    drawn = TASK.pictures(photo, guess)["color"]
    assert drawn.size == (70, 45)
    lightness = skimage.color.rgb2lab(np.asarray(drawn))[..., 0]
    inside = np.all((np.asarray(drawn) > 0) & (np.asarray(drawn) < 255), axis=-1)  # clipped colours lose some
    assert inside.mean() > 0.5
    assert np.abs(lightness - skimage.color.rgb2lab(photo)[..., 0])[inside].max() < 1.0


def test_true_colours_give_the_photo_back():
    assert np.abs(np.asarray(TASK.pictures(smooth(), ab_of(smooth()))["color"]).astype(int) - smooth()).max() <= 1


def test_the_loss_is_the_squared_error_of_ab():
    raw, target = torch.randn(1, 2, 40, 48), smooth()
    wanted = np.square(np.tanh(raw[0].numpy()) - ab_of(target)).mean()
    features = torch.full((1, 5, 4, 4), 1e3)
    assert TASK.loss([raw, features], {"target": tensor(target)})["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_a_smaller_output_is_brought_to_the_target():
    raw = torch.atanh(torch.tensor([0.1, -0.2]))[None, :, None, None].expand(1, 2, 5, 6)
    wanted = np.square(np.array([0.1, -0.2])[:, None, None] - ab_of(smooth())).mean()
    assert TASK.loss([raw], {"target": tensor(smooth())})["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_temperature_needs_features():
    raw = torch.zeros(1, 2, 16, 16)
    with pytest.raises(UsageError, match="no meaning"):
        distil(TASK, [raw], [raw], {}, 2.0)
    assert distil(TASK, [raw], [raw], {}, 1.0)["loss"].item() == pytest.approx(0.0, abs=1e-7)


def test_temperature_changes_what_features_are_worth_and_labels_weigh_half():
    raw, generator = torch.zeros(1, 2, 16, 16), torch.Generator().manual_seed(0)
    student, teacher = ([raw, torch.rand(1, n, 8, 8, generator=generator)] for n in (5, 9))
    one, two = (distil(TASK, student, teacher, {}, t) for t in (1.0, 2.0))
    assert one["features"] != two["features"]
    labelled = distil(TASK, student, teacher, {"target": torch.rand(1, 3, 16, 16, generator=generator)}, 1.0)
    assert labelled["loss"].item() == pytest.approx((one["loss"] + 0.5 * labelled["hard"]).item(), rel=1e-5)


def test_folders_and_builtin_are_their_own_targets(photos):
    data = TASK.open([str(photos), "builtin"], "train")
    assert data.names[:4] == ("0", "1", "2", "3")
    sample = data.original(1)
    assert np.array_equal(sample["image"], np.roll(smooth(), 7, axis=1))
    assert sample["image"] is sample["target"]
    assert data.vectors(0) == {}
    assert len(TASK.open([str(photos)], "test")) == 2
    made = TASK.open(["builtin"], "train").original(3)["image"]
    assert np.array_equal(made, Crops("train").original(3)["image"])


def test_training_pictures_and_targets_show_the_same_colours(photos):
    data = TASK.open([str(photos)], "train")
    batch = Batches(data, TASK.input, 32, batch=4, stop=1, augment=TASK.augmentation, workers=0).at(0)
    assert batch["image"].shape == (4, 1, 32, 32)
    for image, target in zip(batch["image"].numpy(), batch["target"].numpy(), strict=True):
        lightness = skimage.color.rgb2lab(np.moveaxis(target, 0, -1))[..., 0]
        assert np.abs(image[0] - (lightness / 50 - 1)).max() < 1e-3


def test_a_grey_folder_is_refused_and_a_grey_photo_is_not(tmp_path, photos):
    tinted = grey() + np.array([3, 0, -3])  # a scanner's tint
    for name, picture in (("a", grey()), ("b", tinted.clip(0, 255).astype(np.uint8)), ("c", grey(9, 9))):
        save(tmp_path / "grey" / f"{name}.png", picture)
        save(photos / "test" / f"{name}.png", picture)
    with pytest.raises(DataError, match=r"no colours in .*grey.*found grey photos alone"):
        TASK.open([str(tmp_path / "grey")], "train")
    assert len(TASK.open([str(photos)], "test")) == 5


@pytest.mark.parametrize("kind", ["absent", "empty", "text"])
def test_what_is_no_folder_of_photos_is_refused(tmp_path, kind):
    folder = tmp_path / kind
    if kind != "absent":
        folder.mkdir()
    if kind == "text":
        (folder / "readme.txt").write_text("no photo")
    with pytest.raises(DataError):
        TASK.open([str(folder)], "train")
    with pytest.raises(DataError, match="no data folder was named"):
        TASK.open([], "train")


def test_a_broken_photo_is_met_where_it_is_read(photos):
    (photos / "train" / "0.png").write_bytes(b"no photo at all")
    data = TASK.open([str(photos)], "train")
    with pytest.raises(DataError, match=r"0\.png"):
        data.original(0)


class Packed(Dataset):
    """A colour photo with an embedding of so many numbers, or none."""

    names, fingerprint = ("one",), "one"

    def __init__(self, length):
        self.length = length
        self.embedding = {"sha256": "0123456789", "length": length} if length else None

    def original(self, index):
        return {"image": np.roll(smooth(), index)}

    def vectors(self, index):
        return {"embedding": np.full(self.length, index, np.float32)} if self.length else {}


def test_embeddings_come_along_and_must_agree(monkeypatch):
    monkeypatch.setattr(color, "_find", lambda entry, *_: Packed(int(entry)))
    data = TASK.open(["7", "7"], "train")
    assert data.embedding["length"] == 7
    batch = Batches(data, TASK.input, 32, batch=2, stop=1, augment=None, workers=0).at(0)
    assert batch["embedding"].shape == (2, 7)
    assert batch["embedding"].dtype == torch.float32
    for other, told in (("5", "embeddings of 5 numbers by weights 01234567"), ("0", "no embeddings")):
        with pytest.raises(DataError, match=f"embeddings of 7 numbers by weights 01234567, '{other}' has {told}"):
            TASK.open(["7", other], "train")


def command(*parts):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, list(map(str, parts)))
    return stopped.value.code


def test_a_packed_folder_is_opened(tmp_path, photos):
    pytest.importorskip("pyarrow")
    assert command("pack", photos, "--out", tmp_path / "packed", "--quiet") == 0
    packed, plain = (TASK.open([str(folder)], "train") for folder in (tmp_path / "packed", photos))
    assert packed.names == plain.names
    assert packed.embedding is None
    assert np.array_equal(packed.original(2)["target"], plain.original(2)["target"])


def test_train_evaluate_and_apply(tmp_path, capsys, photos):
    store = ("--store", tmp_path / "store")
    quick = ("--data", photos, "--steps", 2, "--size", 32, "--batch", 2, "--width", 8, "--workers", 0)
    assert command("train", "--teacher", "colorizer", *quick, *store) == 0
    capsys.readouterr()
    assert command("evaluate", "--json", *store) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 2
    assert set(told) >= {metric.name for metric in TASK.metrics}
    save(tmp_path / "old.png", grey(50, 30))
    assert command("apply", tmp_path / "old.png", "--out", tmp_path / "out", *store) == 0
    assert PIL.Image.open(tmp_path / "out" / "old.color.png").size == (30, 50)
