"""Published layouts of segmentation data, made small on disk, and what is wrong with broken ones."""

import json

import numpy as np
import PIL.Image
import pytest

from compress.core.errors import DataError, UsageError
from compress.kit.data.camvid import GROUPS, split_of
from compress.kit.data.classes import VOID, palette, read_classes, read_colors
from compress.kit.data.coco import draw, unpack_runs
from compress.kit.data.segfolders import CAMVID, CITYSCAPES, VOC, open_classes
from compress.tasks import TASKS

TASK = TASKS.get("segmentation")


def save_photo(path, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def save_map(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image.putpalette(palette().ravel().tolist())
    image.save(path)


def stripes(*values, size=(12, 10)):
    return np.repeat(np.resize(values, size[0])[None], size[1], axis=0).astype(np.uint8)


def make_voc(root, **lists):
    for split, stems in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{stem}\n" for stem in stems))
        for k, stem in enumerate(stems):
            save_photo(root / "JPEGImages" / f"{stem}.jpg")
            save_map(root / "SegmentationClass" / f"{stem}.png", stripes(0, k % 20 + 1, VOID), "P")


def test_pascal_voc_is_read_by_its_lists(tmp_path):
    train = [f"2007_{k:06d}" for k in range(40)]
    make_voc(tmp_path / "VOCdevkit" / "VOC2012", train=train, val=["2008_000001", "2008_000002"])
    opened = {split: open_classes(tmp_path, split) for split in ("train", "val", "test", "all")}
    assert opened["val"].names == ("2008_000001", "2008_000002")
    assert opened["train"].labels == VOC
    assert np.array_equal(opened["val"].original(1)["target"], stripes(0, 2, VOID))
    assert 0 < len(opened["test"]) < 15
    assert sorted([*opened["train"].names, *opened["test"].names]) == train
    assert len(opened["all"]) == 42
    assert opened["val"].original(0)["image"].shape == (10, 12, 3)


def test_a_voc_list_that_names_a_missing_file_is_refused(tmp_path):
    make_voc(tmp_path, train=["a", "b"], val=["c"])
    (tmp_path / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(DataError, match=r"train\.txt' names 'b', but there is no .*b\.png"):
        TASK.open([str(tmp_path)], "train")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("")
    with pytest.raises(DataError, match="nothing in the train split"):
        TASK.open([str(tmp_path)], "train")


def test_a_voc_map_of_more_classes_than_voc_s_is_refused(tmp_path):
    make_voc(tmp_path, val=["a"])
    save_map(tmp_path / "SegmentationClass" / "a.png", stripes(0, 21), "P")
    with pytest.raises(DataError, match=r"the class map of 'a' has labels 21, wanted 0\.\.20, or 255"):
        TASK.open([str(tmp_path)], "val").original(0)


def make_city(root, split, city, frames, values):
    for frame in frames:
        stem = f"{city}_{frame:06d}_000019"
        save_photo(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        save_map(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", values)


def test_cityscapes_numbers_become_train_ids(tmp_path):
    make_city(tmp_path, "train", "aachen", range(30), stripes(7, 8, 0, 33, 26, 4))
    make_city(tmp_path, "val", "ulm", range(2), stripes(11, 3, 255))
    data = open_classes(tmp_path, "train")
    assert data.labels == tuple(CITYSCAPES.values())
    assert data.original(0)["target"][0, :6].tolist() == [0, 1, VOID, 18, 13, VOID]
    assert len(open_classes(tmp_path, "val")) == 2
    assert len(data) + len(open_classes(tmp_path, "test")) == 30
    make_city(tmp_path, "val", "ulm", [7], stripes(34))
    with pytest.raises(DataError, match="labels 34"):
        open_classes(tmp_path, "val").original(2)
    next((tmp_path / "gtFine" / "val" / "ulm").glob("*")).unlink()
    with pytest.raises(DataError, match="has no class map"):
        open_classes(tmp_path, "val")


def make_plain(root, stems, values, split="train"):
    for stem in stems:
        save_photo(root / split / "images" / f"{stem}.jpg")
        save_map(root / split / "labels" / f"{stem}.png", values)


def test_camvid_s_last_number_is_void(tmp_path):
    make_plain(tmp_path, ["0001TP_006690", "Seq05VD_f00000"], stripes(0, 10, 11))
    make_plain(tmp_path, ["0016E5_07959"], stripes(3), "val")
    make_plain(tmp_path, ["0016E5_00390"], stripes(12), "test")
    data = open_classes(tmp_path, "train")
    assert data.labels == CAMVID
    assert data.original(0)["target"][0, :3].tolist() == [0, 10, VOID]
    with pytest.raises(DataError, match=r"labels 12, wanted 0\.\.10"):
        open_classes(tmp_path, "test").original(0)


def test_segnet_s_folders_are_read(tmp_path):
    for split, stem in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
        save_photo(tmp_path / split / f"{stem}.png")
        save_map(tmp_path / f"{split}annot" / f"{stem}.png", stripes(0, 10, 11))
    for split in ("train", "val", "test"):
        data = open_classes(tmp_path, split)
        assert (data.labels, len(data)) == (CAMVID, 1)
        assert data.original(0)["target"][0, :3].tolist() == [0, 10, VOID]
    assert len(open_classes(tmp_path, "all")) == 3
    (tmp_path / "testannot" / "Seq05VD_f00000.png").unlink()
    with pytest.raises(DataError, match="has no class map"):
        open_classes(tmp_path, "test")


def color_map(path, colors, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.resize(np.array(colors, np.uint8), (size[0], 3))
    PIL.Image.fromarray(np.broadcast_to(rows, (size[1], size[0], 3)).copy()).save(path)


def make_stills(root, *stems):
    for stem in stems:
        save_photo(root / "701_StillsRaw_full" / f"{stem}.png")
        # Sky, LaneMkgsDriv, Void, MotorcycleScooter, Archway
        colors = [(128, 128, 128), (128, 0, 192), (0, 0, 0), (192, 0, 192), (192, 0, 128)]
        color_map(root / "LabeledApproved_full" / f"{stem}_L.png", colors)


def test_camvid_s_colours_become_segnet_s_classes(tmp_path):
    make_stills(tmp_path, "0001TP_006690", "0016E5_07961", "0016E5_07980", "Seq05VD_f02370", "0001TP_008550")
    data = open_classes(tmp_path, "train")
    assert data.labels == CAMVID
    assert data.original(0)["target"][0, :5].tolist() == [0, 3, VOID, 10, 1]
    assert data.names == ("0001TP_006690", "0016E5_07980")
    assert open_classes(tmp_path, "val").names == ("0016E5_07961",)
    assert open_classes(tmp_path, "test").names == ("0001TP_008550", "Seq05VD_f02370")
    assert sum(map(len, GROUPS.values())) == len({c for colors in GROUPS.values() for c in colors}) == 31
    color_map(tmp_path / "LabeledApproved_full" / "0016E5_07961_L.png", [(1, 2, 3), (0, 0, 0)])
    with pytest.raises(DataError, match="60 pixels of colours that are no class, the first #010203"):
        open_classes(tmp_path, "val").original(0)
    (tmp_path / "LabeledApproved_full" / "0016E5_07961_L.png").unlink()
    with pytest.raises(DataError, match="has no class map"):
        open_classes(tmp_path, "val")


def test_a_few_pixels_painted_wrong_are_void(tmp_path):
    pixels = np.full((20, 20, 3), 128, np.uint8)
    pixels[0, :3] = (9, 9, 9)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_colors(tmp_path / "a.png", {(128, 128, 128): 4})
    assert (read[0, :3] == VOID).all()
    assert np.count_nonzero(read == 4) == 397


def test_a_plain_folder_has_as_many_classes_as_its_maps_or_its_list_say(tmp_path):
    make_plain(tmp_path, ["a", "b"], stripes(0, 2, VOID))
    make_plain(tmp_path, ["c"], stripes(4), "val")
    assert len(open_classes(tmp_path, "train").labels) == 5
    (tmp_path / "classes.txt").write_text("ground\nhouse\nroad\n\n")
    assert open_classes(tmp_path, "train").labels == ("ground", "house", "road")
    with pytest.raises(DataError, match="'c' has labels 4"):
        open_classes(tmp_path, "val").original(0)
    (tmp_path / "classes.txt").write_text("all\n")
    with pytest.raises(DataError, match="names 1 classes"):
        open_classes(tmp_path, "val")


def test_folders_of_other_classes_are_not_mixed(tmp_path):
    make_plain(tmp_path / "one", ["a"], stripes(0, 2))
    make_plain(tmp_path / "two", ["b"], stripes(1, 2))
    make_plain(tmp_path / "three", ["c"], stripes(0, 6))
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    assert TASK.open([one, two], "all").names == ("a", "b")
    with pytest.raises(DataError, match="wanted the same in all"):
        TASK.open([one, three], "all")


def test_maps_that_are_no_class_maps_are_refused(tmp_path):
    make_plain(tmp_path, ["a"], stripes(0, 2))
    with pytest.raises(DataError, match="no class map at"):
        read_classes(tmp_path / "none.png")
    save_photo(tmp_path / "colors.png")
    save_map(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 5, (64, 64)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:600])
    with pytest.raises(DataError, match="can't be decoded"):
        read_classes(tmp_path / "cut.png")
    with pytest.raises(DataError, match="holds RGB pixels"):
        read_classes(tmp_path / "colors.png")
    save_map(tmp_path / "train" / "labels" / "a.png", stripes(0, 2, size=(6, 10)))
    with pytest.raises(DataError, match="differ in size"):
        TASK.open([str(tmp_path)], "train").original(0)
    with pytest.raises(UsageError, match="split"):
        TASK.open([str(tmp_path)], "tarin")
    with pytest.raises(DataError, match="no data folder at"):
        TASK.open([str(tmp_path / "none")], "train")


def make_coco(root, part, names, annotations, **more):
    for name in names:
        save_photo(root / f"{part}2017" / f"{name}.jpg")
    images = [{"id": k, "file_name": f"{name}.jpg", "height": 10, "width": 12} for k, name in enumerate(names)]
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
    content = {"images": images, "annotations": annotations, "categories": categories, **more}
    path = root / "annotations" / f"instances_{part}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def coco_object(image, category, shape, area=1.0, crowd=0):
    return {"image_id": image, "category_id": category, "segmentation": shape, "area": area, "iscrowd": crowd}


def test_coco_polygons_and_runs_become_class_maps(tmp_path):
    crowd = {"size": [10, 12], "counts": [100, 20]}  # the last two columns
    objects = [coco_object(0, 3, [box(3, 3, 5, 6)], 6.0), coco_object(0, 18, [box(1, 2, 8, 9)], 49.0)]
    make_coco(tmp_path, "val", ["a", "b"], [*objects, coco_object(0, 3, crowd, 20.0, crowd=1)])
    data = open_classes(tmp_path, "val")
    wanted = np.zeros((10, 12), np.uint8)
    wanted[2:9, 1:8] = 2
    wanted[3:6, 3:5] = 1
    wanted[:, 10:] = VOID
    assert data.labels == ("background", "car", "dog")
    assert np.array_equal(data.original(0)["target"], wanted)
    assert not data.original(1)["target"].any()


def test_coco_s_compressed_runs_are_unpacked():
    mask = np.zeros((10, 12), np.bool_)
    mask[2:9, 1:8] = True
    mask[3:6, 3:5] = False
    mask[:, 10] = mask[0, 0] = True
    text = "01;6H00J020N02040000b03E"  # what pycocotools 2.0.11 makes of it
    assert np.array_equal(draw({"counts": text, "size": [10, 12]}, (10, 12), "a"), mask)
    assert unpack_runs(text[:2] + "P") is None  # cut within a number
    assert unpack_runs("0 1") is None


def test_coco_splits(tmp_path):
    names = [f"{k:012d}" for k in range(30)]
    make_coco(tmp_path, "train", names, [])
    with pytest.raises(DataError, match=r"no annotations/instances_val"):
        open_classes(tmp_path, "val")
    make_coco(tmp_path, "val", ["v"], [])
    train, test = open_classes(tmp_path, "train"), open_classes(tmp_path, "test")
    assert sorted([*train.names, *test.names]) == names
    assert len(open_classes(tmp_path, "all")) == 31
    before = open_classes(tmp_path, "val").fingerprint
    make_coco(tmp_path, "val", ["v"], [coco_object(0, 3, [box(1, 1, 4, 4)])])
    assert open_classes(tmp_path, "val").fingerprint != before


def test_a_coco_json_without_what_is_needed_is_refused(tmp_path):
    runs = ([130], [60, 61], [-1, 121], "Yb3", None)
    for shape in (
        "abc",
        [[1, 2, 3, 4]],
        [["1"] * 6],
        [[1, 2, 3, float("nan"), 1, 1]],
        *({"size": [10, 12], "counts": counts} for counts in runs),
    ):
        path = make_coco(tmp_path, "val", ["a"], [coco_object(0, 3, shape)])
        with pytest.raises(DataError, match="an object of 'a' has no shape"):
            open_classes(tmp_path, "val").original(0)
    make_coco(tmp_path, "val", ["a"], [coco_object(0, 7, [box(1, 1, 4, 4)])])
    with pytest.raises(DataError, match="category 7"):
        open_classes(tmp_path, "val")
    make_coco(tmp_path, "val", ["a"], [{"image_id": 0}])
    with pytest.raises(DataError, match="annotations without category_id, segmentation"):
        open_classes(tmp_path, "val")
    make_coco(tmp_path, "val", ["a"], [], categories=None)
    with pytest.raises(DataError, match="no list 'categories'"):
        open_classes(tmp_path, "val")
    (tmp_path / "val2017" / "a.jpg").unlink()
    path.write_text(path.read_text().replace("null", "[]"))
    with pytest.raises(DataError, match=r"names 'a\.jpg', but there is no"):
        open_classes(tmp_path, "val")
    path.write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        open_classes(tmp_path, "val")


@pytest.mark.shared_data
def test_the_shared_camvid_is_understood(shared_data):
    data = open_classes(shared_data / "segmentation" / "camvid", "val")
    assert data.labels == CAMVID
    assert len(data) == 101
    seen = np.unique(np.stack([data.original(k)["target"] for k in range(0, 101, 10)]))
    assert set(seen.tolist()) == {*range(11), VOID}


@pytest.mark.shared_data
def test_segnet_s_split_by_rule_is_the_one_of_the_shared_lists(shared_data):
    for split, count in (("train", 367), ("val", 101)):
        names = open_classes(shared_data / "segmentation" / "camvid" / split, "all").names
        assert len(names) == count
        assert {split_of(name) for name in names} == {split}
