import os
import subprocess
import sys
from itertools import product

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import CompressError, DataError, UsageError
from compress.core.types import ImageSpec
from compress.kit.data.batches import normalize
from compress.kit.data.folders import fold
from compress.kit.data.sets import Augmentation, Batches, Concat, Pairs, Photos, Subset, open_pairs, open_photos, stream
from compress.kit.images import prepare, read_rgb, resize

SPEC = ImageSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def picture(path, value=0, *, size=(10, 12), mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(value)
    array = random.integers(0, 256, size if mask else (*size, 3), np.uint8)
    PIL.Image.fromarray(array).save(path)


def pairs(folder, stems, images="images", targets="masks", suffix=".jpg", target_suffix=".png"):
    for i, stem in enumerate(stems):
        picture(folder / images / f"{stem}{suffix}", i)
        picture(folder / targets / f"{stem}{target_suffix}", i, mask=True)
    return folder


def stems(count, start=0):
    return [f"p{i:03d}" for i in range(start, start + count)]


# ---- layouts

PUBLISHED = {
    "plain": ("images", "masks"),
    "singular": ("image", "mask"),
    "upper case": ("Images", "GT"),
    "ECSSD": ("images", "ground_truth_mask"),
    "HKU-IS": ("imgs", "gt"),
    "DUTS-TR": ("DUTS-TR-Image", "DUTS-TR-Mask"),
    "DUT-OMRON": ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    "DUT-OMRON unpacked": ("DUT-OMRON-image/DUT-OMRON-image", "DUT-OMRON-gt-pixelwise.zip/pixelwiseGT-new-PNG"),
    "PASCAL-S": ("Imgs", "Masks"),
    "PASCAL-S as published": ("datasets/imgs/pascal", "datasets/masks/pascal"),
    "SOD, mixed": ("Imgs", "Imgs"),
}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_published_layouts_are_understood(tmp_path, layout):
    images, targets = PUBLISHED[layout]
    opened = open_pairs([pairs(tmp_path / "set", stems(3), images, targets)], "all")
    assert opened.names == ("p000", "p001", "p002")
    sample = opened.original(1)
    assert sample["image"].shape == (10, 12, 3)
    assert sample["target"].shape == (10, 12)


def test_duts_has_its_own_splits(tmp_path):
    pairs(tmp_path / "DUTS-TR", stems(30), "DUTS-TR-Image", "DUTS-TR-Mask")
    pairs(tmp_path / "DUTS-TE", stems(5, 100), "DUTS-TE-Image", "DUTS-TE-Mask")
    opened = {split: open_pairs([tmp_path], split).names for split in ("train", "val", "test")}
    assert opened["test"] == tuple(stems(5, 100))
    assert sorted(opened["train"] + opened["val"]) == stems(30)


def test_split_folders_are_taken_as_they_are(tmp_path):
    for i, split in enumerate(("train", "val", "test")):
        pairs(tmp_path / split, stems(3, 10 * i))
    for i, split in enumerate(("train", "val", "test")):
        assert open_pairs([tmp_path], split).names == tuple(stems(3, 10 * i))
    assert len(open_pairs([tmp_path], "all")) == 9


def test_without_a_val_folder_val_is_a_tenth_of_train_that_train_then_lacks(tmp_path):
    pairs(tmp_path / "train", stems(100))
    pairs(tmp_path / "test", stems(4, 200))
    train, val, test = (set(open_pairs([tmp_path], split).names) for split in ("train", "val", "test"))
    assert train | val == set(stems(100))
    assert not train & val
    assert 4 <= len(val) <= 17
    assert test == set(stems(4, 200))


@pytest.mark.parametrize("name", ["set", "train"])
def test_a_folder_without_splits_is_split_by_hash(tmp_path, name):
    folder = pairs(tmp_path / name, stems(100))
    found = {split: set(open_pairs([folder], split, seed=3).names) for split in ("train", "val", "test")}
    assert set.union(*found.values()) == set(stems(100))
    assert sum(map(len, found.values())) == 100
    assert 70 <= len(found["train"]) <= 90
    before = found["train"] | found["val"]
    pairs(folder, stems(20, 500))
    for split, names in found.items():
        assert names <= set(open_pairs([folder], split, seed=3).names)
    assert before != set(open_pairs([folder], "train", seed=4).names)


def test_a_folder_called_test_is_the_test_split(tmp_path):
    folder = pairs(tmp_path / "test", stems(4))
    assert open_pairs([folder], "test").names == tuple(stems(4))
    with pytest.raises(DataError, match="nothing in the train split"):
        open_pairs([folder], "train")


def test_the_working_directory_knows_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(pairs(tmp_path / "test", stems(4)))
    assert len(open_pairs(["."], "test")) == 4


def test_folds_are_evenly_spread():
    values = np.array([fold(stem, 0) for stem in stems(2000)])
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 200).max() < 60


def test_several_folders_become_one_set_of_unlike_names(tmp_path):
    first, second = pairs(tmp_path / "a", stems(2)), pairs(tmp_path / "b", stems(2, 1))
    names = open_pairs([first, second], "all").names
    assert names == ("p000", "a/images/p001.jpg", "b/images/p001.jpg", "p002")


def test_targets_may_be_pictures_in_folders_of_any_name(tmp_path):
    for i, stem in enumerate(stems(2)):
        picture(tmp_path / "input" / f"{stem}.jpg", i)
        picture(tmp_path / "target" / f"{stem}.jpg", i + 9)
    opened = open_pairs([tmp_path], "all", image_dirs=("input",), target_dirs=("target",), read_target=read_rgb)
    assert opened.original(0)["target"].shape == (10, 12, 3)


# ---- what is refused


def refuse(match, *roots, split="train"):
    with pytest.raises(DataError, match=match) as caught:
        open_pairs(roots, split)
    assert "\n" not in str(caught.value)


def test_unusable_folders_are_refused(tmp_path):
    refuse("no data folder at .*found nothing", tmp_path / "absent")
    refuse("is empty", tmp_path)
    refuse("no data folder was named")
    (tmp_path / "notes.txt").touch()
    refuse("found a file", tmp_path / "notes.txt")
    refuse("no photos with targets.*found notes.txt.*wanted DIR/images", tmp_path)
    picture(tmp_path / "images" / "a.jpg")
    refuse("no photos with targets", tmp_path)
    (tmp_path / "masks").mkdir()
    refuse("no images in .*masks", tmp_path)


def test_lonely_photos_and_targets_are_counted_and_named(tmp_path):
    pairs(tmp_path, stems(2))
    for stem in "edcba":
        picture(tmp_path / "images" / f"{stem}.jpg")
    refuse(r"5 photos without a target \(a, b, c, ...\)", tmp_path)
    picture(tmp_path / "masks" / "z.png", mask=True)
    refuse(r"and 1 targets without a photo \(z\)", tmp_path)


def test_two_photos_of_one_name_are_refused(tmp_path):
    pairs(tmp_path, ["a"])
    picture(tmp_path / "images" / "a.png")
    refuse("share a name", tmp_path)


def test_an_empty_split_and_an_unknown_one_are_refused(tmp_path):
    pairs(tmp_path, ["only"])
    empty = next(s for s in ("val", "test") if not 0.8 <= fold("only", 0) < 0.9 or s == "test")
    refuse(f"nothing in the {empty} split", tmp_path, split=empty)
    with pytest.raises(UsageError, match="unknown split 'tset', did you mean 'test'"):
        open_pairs([tmp_path], "tset")


def test_a_mask_of_another_size_is_refused(tmp_path):
    pairs(tmp_path, ["a"])
    picture(tmp_path / "masks" / "a.png", size=(10, 11), mask=True)
    with pytest.raises(DataError, match="differ in size: found 12 x 10 and 11 x 10"):
        open_pairs([tmp_path], "all").original(0)


# ---- photos alone, joins, fingerprints


def test_photos_are_found_in_folders_and_below_but_masks_are_not(tmp_path):
    pairs(tmp_path, stems(2))
    picture(tmp_path / "more" / "deep" / "x.png")
    photos = open_photos([tmp_path])
    assert photos.names == ("images/p000", "images/p001", "more/deep/x")
    assert set(photos.original(0)) == {"image"}
    assert open_photos([tmp_path / "images" / "p000.jpg"]).names == ("p000",)


def test_photos_have_splits_too(tmp_path):
    for split in ("train", "test"):
        for stem in stems(40):
            picture(tmp_path / split / f"{stem}.png")
    counts = {split: len(open_photos([tmp_path], split)) for split in ("train", "val", "test")}
    assert counts["test"] == 40
    assert counts["train"] + counts["val"] == 40
    assert counts["val"] > 0


def test_photos_of_one_stem_keep_apart(tmp_path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "a.png", 1)
    assert open_photos([tmp_path]).names == ("a.jpg", "a.png")


def test_photos_are_refused_where_there_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="no photos in"):
        open_photos([tmp_path])


def numbered(folder, count):
    for i in range(count):
        picture(folder / f"{i}.png", i, size=(4, 4))
    return Photos(tuple((str(i), folder / f"{i}.png") for i in range(count)))


def test_concat_and_subset_show_the_same_pictures(tmp_path):
    first, second = numbered(tmp_path / "a", 3), numbered(tmp_path / "b", 2)
    both = Concat((first, second))
    assert both.names == ("0", "1", "2", "0", "1")
    assert len(both) == 5
    for i, part in enumerate((first, first, first, second, second)):
        np.testing.assert_array_equal(both.original(i)["image"], part.original(i % 3)["image"])
    chosen = Subset(both, (4, 0))
    assert chosen.names == ("1", "0")
    np.testing.assert_array_equal(chosen.original(0)["image"], second.original(1)["image"])
    prints = {both.fingerprint, first.fingerprint, second.fingerprint, chosen.fingerprint}
    assert len(prints) == 4
    assert Subset(both, (0, 4)).fingerprint != chosen.fingerprint


def test_a_fingerprint_tells_contents_not_places(tmp_path):
    here, there = (open_pairs([pairs(tmp_path / name, stems(3))], "all") for name in ("here", "there"))
    assert len(here.fingerprint) == 16
    assert int(here.fingerprint, 16) >= 0
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint == Pairs(here.items[::-1]).fingerprint
    before = here.fingerprint
    path = here.items[1][2]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert here.fingerprint != before
    assert Pairs(there.items[:2]).fingerprint != there.fingerprint


def test_fingerprints_are_equal_in_another_process(tmp_path):
    folder = pairs(tmp_path, stems(2))
    code = f"from compress.kit.data.sets import open_pairs; print(open_pairs([{str(folder)!r}], 'all').fingerprint)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == open_pairs([folder], "all").fingerprint


# ---- the stream of draws


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(-5, 2**64))
def test_each_epoch_is_a_permutation(length, batch, seed):
    steps = -(-3 * length // batch)
    drawn = [draw for step in range(steps) for draw in stream(length, batch, seed, step)]
    for epoch in range(3):
        assert sorted(d.index for d in drawn[epoch * length : (epoch + 1) * length]) == list(range(length))
    assert len({d.seed for d in drawn}) == len(drawn)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 9), st.integers(0, 50), st.integers(1, 5))
def test_ranks_share_the_batch_of_a_single_process(length, batch, seed, step, world):
    parts = [draw for rank in range(world) for draw in stream(length, batch, seed, step, rank, world)]
    assert parts == stream(length, batch, seed, step)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99))
def test_draws_depend_on_the_position_alone(batch, position):
    (alone,) = stream(23, 1, 5, position)
    assert stream(23, batch, 5, position // batch)[position % batch] == alone


def test_seeds_and_epochs_shuffle_differently():
    orders = {tuple(d.index for d in stream(50, 50, seed, step)) for seed, step in product(range(3), range(3))}
    assert len(orders) == 9


# ---- batches


@pytest.fixture
def folder(tmp_path):
    return open_pairs([pairs(tmp_path, stems(5))], "all")


@pytest.mark.parametrize("augment", [Augmentation(), None], ids=["augmented", "plain"])
def test_batches_do_not_depend_on_workers_cache_or_start(folder, augment):
    settings = {"size": 16, "batch": 3, "seed": 1, "stop": 4, "augment": augment}
    plain = list(Batches(folder, SPEC, workers=0, **settings))
    assert len(plain) == 4
    others = [
        list(Batches(folder, SPEC, workers=1, **settings)),
        list(Batches(folder, SPEC, workers=2, **settings)),
        list(Batches(folder, SPEC, workers=0, cache_bytes=0, **settings)),
        list(Batches(folder, SPEC, workers=0, **settings | {"stop": 2}))
        + list(Batches(folder, SPEC, workers=0, start=2, **settings)),
    ]
    for other in others:
        for mine, theirs in zip(plain, other, strict=True):
            assert mine.keys() == theirs.keys() == {"image", "target", "index"}
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_two_ranks_share_the_batches_of_one(folder):
    one = Batches(folder, SPEC, 16, 4, stop=1, workers=0).at(0)
    halves = [Batches(folder, SPEC, 16, 4, stop=1, workers=0, rank=rank, world=2).at(0) for rank in range(2)]
    for key, value in one.items():
        assert torch.equal(torch.cat([half[key] for half in halves]), value)


def test_unaugmented_batches_are_what_prepare_makes(folder):
    (batch,) = Batches(folder, SPEC, 16, 3, stop=1, augment=None, workers=0)
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["target"].shape == (3, 1, 16, 16)
    assert batch["index"].dtype == torch.int64
    spec = ImageSpec(height=16, width=16, mean=SPEC.mean, std=SPEC.std)
    for image, target, index in zip(batch["image"], batch["target"], batch["index"].tolist(), strict=True):
        original = folder.original(index)
        np.testing.assert_array_equal(image.numpy(), prepare(original["image"], spec))
        np.testing.assert_allclose(target[0].numpy(), resize(original["target"], 16) / 255, atol=1e-6)


@pytest.mark.parametrize("scale", ["255", "max"])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_prepare(scale, channels):
    photos = np.random.default_rng(0).integers(0, 180, (4, 9, 9, 3), np.uint8)
    photos[3] = 0
    spec = ImageSpec(height=9, width=9, channels=channels, scale=scale, mean=SPEC.mean, std=SPEC.std)
    made = normalize(torch.from_numpy(photos).permute(0, 3, 1, 2), spec)
    np.testing.assert_array_equal(made.numpy(), np.stack([prepare(photo, spec) for photo in photos]))


def test_augmented_targets_stay_in_range_and_photos_need_none(folder):
    (batch,) = Batches(folder, SPEC, 16, 5, stop=1, workers=0)
    assert 0 <= batch["target"].min() <= batch["target"].max() <= 1
    photos = Photos(tuple((name, image) for name, image, _ in folder.items))
    (batch,) = Batches(photos, SPEC, 16, 5, stop=1, workers=0)
    assert set(batch) == {"image", "index"}


def test_class_maps_keep_their_numbers(tmp_path):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    classes = np.random.default_rng(0).choice(np.array([0, 5, 255], np.uint8), (10, 12))
    PIL.Image.fromarray(classes).save(tmp_path / "masks" / "a.png")
    opened = open_pairs([tmp_path], "all")
    (batch,) = Batches(opened, SPEC, 16, 4, stop=1, workers=0, target_nearest=True)
    assert batch["target"].dtype == torch.int64
    assert set(batch["target"].unique().tolist()) <= {0, 5, 255}


class Counted(Photos):
    reads = 0

    def original(self, index):
        type(self).reads += 1
        return super().original(index)


def test_pictures_are_decoded_once(tmp_path):
    counted = Counted(numbered(tmp_path, 4).items)
    assert len(list(Batches(counted, SPEC, 8, 4, stop=10, workers=0))) == 10
    assert Counted.reads <= 5  # one more to learn the shape


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_ends_training_in_one_line(tmp_path, workers):
    photos = numbered(tmp_path, 3)
    photos.items[2][1].write_bytes(b"")
    with pytest.raises(CompressError, match=r"2\.png' is empty") as caught:
        list(Batches(photos, SPEC, 8, 3, stop=1, workers=workers))
    assert "\n" not in str(caught.value)


def test_iterating_leaves_torchs_random_numbers_alone(folder):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(Batches(folder, SPEC, 8, 2, stop=2, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.shared_data
def test_real_photos_open(shared_data):
    root = shared_data / "saliency" / "ecssd"
    train, val, test = (open_pairs([root], split) for split in ("train", "val", "test"))
    assert len(train) + len(val) == 600
    assert len(test) == 100
    (batch,) = Batches(Subset(val, (0, 1)), SPEC, 32, 2, stop=1, workers=0)
    assert batch["target"].mean() > 0.02
