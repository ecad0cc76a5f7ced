"""Segmentation: its losses, counts and layouts against slow loops, and what it refuses."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import torch

from compress.core.errors import DataError, UsageError
from compress.kit import losses
from compress.kit.classes import (
    VOID,
    class_dice,
    class_iou,
    confusion,
    mean_of_known,
    palette,
    pixel_accuracy,
    read_classes,
)
from compress.kit.classscenes import LABELS, ClassScenes
from compress.kit.data import Batches
from compress.kit.segfolders import CAMVID, CITYSCAPES, VOC, open_classes
from compress.tasks import TASKS

TASK = TASKS.get("segmentation")


def made_up(seed=0, classes=4, void=0.2, shape=(3, 9, 7)):
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, shape)
    target[random.random(shape) < void] = VOID
    logits = random.normal(0, 2, (shape[0], classes, *shape[1:]))
    return torch.tensor(logits), torch.tensor(target)


def pixels(logits, target):
    """(true class, probabilities) of every labelled pixel, one at a time."""
    for n, y, x in np.ndindex(*target.shape):
        if target[n, y, x] != VOID:
            row = logits[n, :, y, x].numpy()
            shares = np.exp(row - row.max())
            yield int(target[n, y, x]), shares / shares.sum()


def test_cross_entropy_is_that_of_a_loop_over_labelled_pixels():
    logits, target = made_up()
    wanted = np.mean([-math.log(p[c]) for c, p in pixels(logits, target)])
    assert losses.class_cross_entropy(logits, target).item() == pytest.approx(wanted, rel=1e-9)


def test_class_weights_weigh_pixels_by_their_true_class():
    logits, target = made_up(1)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    terms = [(float(weights[c]), -math.log(p[c])) for c, p in pixels(logits, target)]
    wanted = sum(w * cost for w, cost in terms) / sum(w for w, _ in terms)
    assert losses.class_cross_entropy(logits, target, weights).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_is_that_of_a_loop(gamma):
    logits, target = made_up(2)
    wanted = np.mean([-((1 - p[c]) ** gamma) * math.log(p[c]) for c, p in pixels(logits, target)])
    assert losses.class_focal_loss(logits, target, gamma).item() == pytest.approx(wanted, rel=1e-9)


def test_dice_loss_is_that_of_a_loop():
    logits, target = made_up(3)
    target[target == 2] = VOID  # a class the batch does not have
    seen = list(pixels(logits, target))
    costs = []
    for k in (0, 1, 3):
        both = sum(p[k] for c, p in seen if c == k)
        sizes = sum(p[k] for _, p in seen) + sum(c == k for c, _ in seen)
        costs.append(1 - (2 * both + 1) / (sizes + 1))
    assert losses.class_dice_loss(logits, target).item() == pytest.approx(np.mean(costs), rel=1e-9)


@pytest.mark.parametrize("loss", [losses.class_cross_entropy, losses.class_focal_loss, losses.class_dice_loss])
def test_void_pixels_cost_nothing_and_get_no_gradient(loss):
    logits, target = made_up(4)
    logits = logits.float().requires_grad_()
    loss(logits, target).backward()
    void = (target == VOID)[:, None].expand_as(logits)
    assert logits.grad[void].abs().max() == 0
    assert logits.grad[~void].abs().min() > 0
    logits.grad = None
    nothing = loss(logits, torch.full_like(target, VOID))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


def test_median_frequency_weights_even_out_the_classes():
    counts = torch.tensor([100, 0, 10, 1000])
    weights = losses.median_frequency_weights(counts)
    assert weights.tolist() == pytest.approx([1.0, 0.0, 10.0, 0.1])
    assert losses.median_frequency_weights(torch.zeros(3)).tolist() == [0, 0, 0]


def test_confusion_counts_what_a_loop_counts():
    random = np.random.default_rng(0)
    target, found = random.integers(0, 5, (2, 20, 30))
    target[random.random(target.shape) < 0.1] = VOID
    wanted = np.zeros((5, 5))
    for t, p in zip(target.ravel(), found.ravel(), strict=True):
        if t != VOID:
            wanted[t, p] += 1
    assert np.array_equal(confusion(found, target.astype(np.uint8), 5), wanted)


def test_measures_are_those_of_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    random = np.random.default_rng(1)
    target = random.integers(0, 6, (4, 16, 16))
    found = np.where(random.random(target.shape) < 0.6, target, random.integers(0, 6, target.shape))
    target[random.random(target.shape) < 0.1] = VOID
    counts = confusion(found, target.astype(np.uint8), 6)
    pair = torch.tensor(found), torch.tensor(target)
    jaccard = MulticlassJaccardIndex(6, average="none", ignore_index=VOID)
    dice = MulticlassF1Score(6, average="none", ignore_index=VOID)
    accuracy = MulticlassAccuracy(6, average="micro", ignore_index=VOID)
    np.testing.assert_allclose(class_iou(counts), jaccard(*pair), rtol=1e-6)
    np.testing.assert_allclose(class_dice(counts), dice(*pair), rtol=1e-6)
    assert pixel_accuracy(counts) == pytest.approx(accuracy(*pair).item())


def test_a_class_that_is_nowhere_does_not_count():
    counts = np.array([[6.0, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert math.isnan(class_iou(counts)[2])
    assert mean_of_known(class_iou(counts)) == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert mean_of_known(class_iou(np.zeros((3, 3)))) == 0


def scored(logits, target):
    scores = []
    for one, truth in zip(torch.softmax(logits, 1).float().numpy(), target.numpy().astype(np.uint8), strict=True):
        scores.append(TASK.score(one, truth))
    return scores, TASK.summarize(scores)


def test_scores_are_those_of_a_loop_over_pixels():
    logits, target = made_up(5, shape=(4, 8, 6))
    scores, summary = scored(logits, target)
    each = [list(pixels(logits[n : n + 1], target[n : n + 1])) for n in range(4)]
    wanted = [np.mean([-math.log(p[c]) for c, p in seen]) for seen in each]
    everything = [pair for seen in each for pair in seen]
    onehot = np.eye(4)
    assert [score["loss"] for score in scores] == pytest.approx(wanted, rel=1e-5)
    assert summary["loss"] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert summary["mae"] == pytest.approx(np.mean([np.abs(p - onehot[c]).sum() / 2 for c, p in everything]), rel=1e-5)
    assert summary["pixel_accuracy"] == pytest.approx(np.mean([p.argmax() == c for c, p in everything]))
    ious = []
    for k in range(4):
        both = sum(c == k == p.argmax() for c, p in everything)
        ious.append(both / sum(k in (c, p.argmax()) for c, p in everything))
    assert summary["miou"] == pytest.approx(np.mean(ious))


def test_miou_is_of_the_set_and_not_the_mean_of_the_images():
    small = np.array([[0, 1], [1, VOID]], np.uint8)
    large = np.zeros((8, 8), np.uint8)
    large[:3] = 1
    half = np.stack([np.full((8, 8), 0.9, np.float32), np.full((8, 8), 0.1, np.float32)])
    scores = [TASK.score(TASK.as_prediction(small)[:2], small), TASK.score(half, large)]
    counts = np.array([[1 + 40, 0], [24, 2]])
    assert TASK.summarize(scores)["miou"] == pytest.approx(np.mean([41 / 65, 2 / 26]))
    assert np.array_equal(sum(s["confusion"] for s in scores).reshape(2, 2), counts)


def test_an_image_of_one_class_is_dead_only_where_the_truth_has_several():
    flat = np.stack([np.full((4, 4), value, np.float32) for value in (0.2, 0.5, 0.3)])
    several, one = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    several[:2] = 2
    one[0] = VOID
    assert TASK.score(flat, several)["dead"] == 1
    assert TASK.score(flat, one)["dead"] == 0
    assert TASK.score(TASK.as_prediction(several), several)["dead"] == 0
    broken = TASK.as_prediction(several)
    broken[0, 0, 0] = np.nan
    assert TASK.score(broken, several)["dead"] == 1


def test_an_image_that_is_void_all_over_scores_nothing():
    void = np.full((5, 4), VOID, np.uint8)
    summary = TASK.summarize([TASK.score(np.full((3, 5, 4), 1 / 3, np.float32), void)])
    assert all(math.isfinite(value) for value in summary.values())
    assert summary["loss"] == summary["mae"] == summary["miou"] == summary["dead_masks"] == 0


def test_a_label_the_network_does_not_have_is_refused():
    with pytest.raises(DataError, match=r"labels 3, wanted 0\.\.2"):
        TASK.score(np.full((3, 2, 2), 1 / 3, np.float32), np.full((2, 2), 3, np.uint8))


def test_distillation_refuses_a_teacher_of_other_classes():
    with pytest.raises(UsageError, match="teacher knows 21 classes, the data set has 6"):
        TASK.distill_loss([torch.zeros(1, 6, 4, 4)], [torch.zeros(1, 21, 4, 4)], {}, 2.0)


def test_distillation_is_the_tempered_kl_and_the_cross_entropy():
    student, target = made_up(6)
    teacher, _ = made_up(7)
    parts = TASK.distill_loss([student], [teacher], {"target": target[:, None]}, 3.0)
    s, t = torch.log_softmax(student / 3, 1), torch.log_softmax(teacher / 3, 1)
    kl = 9 * (t.exp() * (t - s)).sum(1).mean()
    hard = np.mean([-math.log(p[c]) for c, p in pixels(student, target)])
    assert parts["kl"].item() == pytest.approx(kl.item(), rel=1e-6)
    assert parts["loss"].item() == pytest.approx(kl.item() + hard, rel=1e-6)


def test_the_palette_is_pascal_voc_s():
    colors = palette()
    assert colors[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128]),
        [224, 224, 192],
    ]
    assert len(np.unique(colors, axis=0)) == 256


def test_pictures_show_the_classes_and_void():
    target = np.array([[0, 1], [VOID, 15]], np.uint8)
    photo = np.full((2, 2, 3), 100, np.uint8)
    pictures = TASK.pictures(photo, TASK.as_prediction(target))
    assert next(iter(pictures)) == "mask"
    assert np.array_equal(np.asarray(pictures["mask"]), palette()[target])
    assert np.asarray(pictures["overlay"])[1, 1].tolist() == [146, 114, 114]


def test_built_in_scenes_have_every_class_and_void():
    data = ClassScenes("train")
    seen = np.unique(np.stack([data.original(k)["target"] for k in range(24)]))
    assert seen.tolist() == [*range(len(LABELS)), VOID]
    assert np.array_equal(data.original(3)["image"], ClassScenes("train").original(3)["image"])
    with pytest.raises(UsageError, match="split"):
        ClassScenes("tset")


def test_batches_keep_class_numbers():
    data = TASK.open(["builtin"], "val")
    batch = Batches(data, TASK.input, 32, batch=4, stop=1, workers=0, target_nearest=TASK.nearest).at(0)
    assert batch["target"].dtype == torch.int64
    assert set(batch["target"].unique().tolist()) <= {*range(len(LABELS)), VOID}


def test_the_network_has_the_classes_of_the_data():
    options = TASK.network_options(TASK.open(["builtin"], "val"))
    assert options == {"classes": len(LABELS)}
    assert TASK.output_for(options).channels == len(LABELS)
    assert TASK.output_for({}).channels == TASK.output.channels == 21


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
    for shape in ("abc", [[1, 2, 3, 4]], [["1"] * 6], *({"size": [10, 12], "counts": counts} for counts in runs)):
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
