"""Background removal: what the task adds to the losses and metrics it is made of."""

import numpy as np
import PIL.Image
import py_sod_metrics
import pytest
import torch
from distilling import distil

from compress.core.errors import DataError
from compress.kit.measure import losses
from compress.tasks import TASKS

TASK = TASKS.get("saliency")


@pytest.fixture
def maps():
    """Four levels of logits, fused first, then fine to coarse."""
    return levels(5, (16, 16, 8, 4))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {"target": (torch.rand(2, 1, 16, 16, generator=generator) > 0.5).float()}


def levels(seed, sides):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 1, side, side, generator=generator) * 3 for side in sides]


def disk(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    return ((y - height / 2) ** 2 + (x - width / 3) ** 2 < 200).astype(np.uint8) * 255


def constant(value):
    return np.full((1, 32, 32), value, np.float32)


def as_prediction(target):
    return target.astype(np.float32)[None] / 255


def save_pair(root, name, seed=0):
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(root / "images" / f"{name}.png")
    PIL.Image.fromarray(disk(24, 20)).save(root / "masks" / f"{name}.png")


def test_the_loss_is_the_sum_over_all_outputs(maps, batch):
    parts = TASK.loss(maps, batch)
    assert parts["loss"].item() == pytest.approx(
        sum(losses.side_output_cross_entropy([output], batch["target"]).item() for output in maps), rel=1e-5
    )
    assert parts["fused"].item() == pytest.approx(losses.binary_cross_entropy(maps[0], batch["target"]).item())


def test_distillation_is_the_documented_sum_of_its_parts(maps, batch):
    parts = distil(TASK, maps, levels(6, (16, 16, 8, 4)), batch, 2.0)
    assert set(parts) == {"loss", "kl", "hard", "iou"}
    total = parts["kl"] + 0.5 * parts["hard"] + 0.5 * parts["iou"]
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert parts["hard"].item() == pytest.approx(TASK.loss(maps, batch)["loss"].item() / 4, rel=1e-6)
    assert parts["iou"].item() == pytest.approx(losses.soft_iou_loss(maps[0], batch["target"]).item())


def test_every_level_of_the_teacher_is_matched(maps):
    teacher = [m.clone() for m in maps]
    assert distil(TASK, maps, teacher, {}, 2.0)["kl"].item() == pytest.approx(0.0, abs=1e-6)
    for level in range(4):
        moved = [m + 4.0 * (index == level) for index, m in enumerate(teacher)]
        expected = losses.tempered_binary_kl(maps[level], moved[level], 2.0).item() / 4
        assert distil(TASK, maps, moved, {}, 2.0)["kl"].item() == pytest.approx(expected, rel=1e-5)


def test_levels_that_only_one_has_are_left_out(maps):
    teacher = levels(6, (16, 16, 8, 4))
    expected = distil(TASK, maps[:2], teacher[:2], {}, 2.0)["kl"].item()
    assert distil(TASK, maps[:2], teacher, {}, 2.0)["kl"].item() == pytest.approx(expected)
    assert distil(TASK, maps, teacher[:2], {}, 2.0)["kl"].item() == pytest.approx(expected)


def test_the_teacher_is_resized_to_the_student(maps, batch):
    flat = [torch.full((2, 1, 32, 32), 1.5), torch.full((2, 1, 5, 5), 1.5)]
    expected = losses.tempered_binary_kl(maps[0], torch.full_like(maps[0], 1.5), 3.0)
    expected = (expected + losses.tempered_binary_kl(maps[1], torch.full_like(maps[1], 1.5), 3.0)) / 2
    assert distil(TASK, maps, flat, {}, 3.0)["kl"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_photos_without_labels_teach_by_kl_alone(maps):
    parts = distil(TASK, maps, levels(6, (16, 16, 8, 4)), {"image": torch.zeros(2, 3, 16, 16)}, 2.0)
    assert set(parts) == {"loss", "kl"}
    assert parts["loss"].item() == parts["kl"].item() > 0


def test_only_the_student_gets_a_gradient(maps, batch):
    student, teacher = ([m.requires_grad_() for m in levels(seed, (16, 16, 8))] for seed in (7, 8))
    distil(TASK, student, teacher, batch, 2.0)["loss"].backward()
    assert all(s.grad.abs().sum() > 0 for s in student)
    assert all(t.grad is None for t in teacher)


def test_a_perfect_mask_scores_at_the_ends_of_every_scale():
    summary = TASK.summarize([TASK.score(as_prediction(disk()), disk())])
    assert summary == pytest.approx(
        {"loss": 0.0, "mae": 0.0, "maxf": 1.0, "smeasure": 1.0, "dead_masks": 0, "images": 1}, abs=1e-6
    )


@pytest.mark.parametrize(("value", "mae"), [(0.0, "share"), (1.0, "rest"), (0.5, "half")])
def test_a_blank_mask_is_dead_and_keeps_its_bad_mae(value, mae):
    share = (disk() > 0).mean()
    score = TASK.score(constant(value), disk())
    assert score["dead"] == 1.0
    assert score["mae"] == pytest.approx({"share": share, "rest": 1 - share, "half": 0.5}[mae])
    assert TASK.summarize([score])["smeasure"] < 0.6


def test_a_faint_mask_is_dead_though_its_shape_is_right():
    score = TASK.score(as_prediction(disk()) * 0.01, disk())
    assert score["dead"] == 1.0
    assert score["mae"] == pytest.approx(0.99 * (disk() > 0).mean(), rel=1e-5)


def test_a_blank_mask_of_a_photo_without_an_object_is_right():
    score = TASK.score(constant(0.0), np.zeros((60, 80), np.uint8))
    assert (score["dead"], score["mae"], score["smeasure"]) == (0.0, 0.0, 1.0)


def test_values_that_are_not_numbers_score_as_a_dead_background():
    broken = as_prediction(disk())
    broken[0, 0] = np.nan
    score = TASK.score(broken, disk())
    assert score["dead"] == 1.0
    assert score["mae"] == pytest.approx(0.0)
    nothing = TASK.score(constant(np.nan), disk())
    assert nothing["mae"] == pytest.approx((disk() > 0).mean())


def test_values_a_rounding_step_outside_are_clipped():
    over = TASK.score(as_prediction(disk()) * 1.008 - 0.004, disk())
    assert over["mae"] == pytest.approx(0.0)


def test_a_mask_is_measured_at_the_size_of_its_photo():
    small = as_prediction(np.asarray(PIL.Image.fromarray(disk()).resize((40, 30), PIL.Image.Resampling.BOX)))
    score = TASK.score(small, disk())
    up = torch.nn.functional.interpolate(torch.tensor(small)[None], size=(60, 80), mode="bilinear").numpy()[0, 0]
    assert score["mae"] == pytest.approx(np.abs(up - disk() / 255).mean(), rel=1e-4)
    assert score["mae"] < 0.05


def test_the_summary_is_that_of_py_sod_metrics_over_the_data_set():
    rng = np.random.default_rng(2)
    names = ("mae", "maxf", "smeasure")
    with pytest.warns(UserWarning, match="removed in the future"):
        theirs = {"mae": py_sod_metrics.MAE(), "maxf": py_sod_metrics.Fmeasure(), "smeasure": py_sod_metrics.Smeasure()}
    scores = []
    for _ in range(4):
        noisy = np.clip(0.6 * as_prediction(disk()) + rng.normal(0.2, 0.15, (1, 60, 80)), 0, 1).astype(np.float32)
        scores.append(TASK.score(noisy, disk()))
        for measure in theirs.values():
            measure.step(noisy[0], disk() > 128, normalize=False)
    expected = {
        "mae": theirs["mae"].get_results()["mae"],
        "maxf": theirs["maxf"].get_results()["fm"]["curve"].max(),
        "smeasure": theirs["smeasure"].get_results()["sm"],
    }
    summary = TASK.summarize(scores)
    assert {name: summary[name] for name in names} == pytest.approx(expected, rel=1e-6)


def test_the_summary_counts_dead_masks_and_averages_the_rest():
    good, bad = TASK.score(as_prediction(disk()), disk()), TASK.score(constant(0.5), disk())
    summary = TASK.summarize([good, bad, bad])
    assert (summary["dead_masks"], summary["images"]) == (2, 3)
    assert summary["mae"] == pytest.approx(1 / 3)


def test_pictures_are_the_mask_and_the_cut_out_photo():
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    pictures = TASK.pictures(photo, as_prediction(disk()))
    assert {name: (p.mode, p.size) for name, p in pictures.items()} == {
        "mask": ("L", (80, 60)),
        "cutout": ("RGBA", (80, 60)),
    }
    assert np.array_equal(pictures["mask"], disk())
    assert np.array_equal(np.asarray(pictures["cutout"])[..., :3], photo)
    assert np.array_equal(np.asarray(pictures["cutout"])[..., 3], disk())


def test_open_joins_folders_and_the_built_in_set(tmp_path):
    for root, names in (("a", "xy"), ("b", "z")):
        for name in names:
            save_pair(tmp_path / root / "train", name)
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    alone, joined = TASK.open(both, "train"), TASK.open([*both, "builtin"], "train")
    assert set(alone.names) <= set("xyz")
    assert joined.names[: len(alone)] == alone.names
    assert len(joined) == len(alone) + len(TASK.open(["builtin"], "train"))
    sample = joined.original(len(joined) - 1)
    assert sample["target"].shape == sample["image"].shape[:2]
    assert sample["target"].dtype == np.uint8


def test_open_says_that_masks_are_wanted(tmp_path):
    save_pair(tmp_path, "a")
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "masks").rmdir()
    with pytest.raises(DataError, match=r"masks"):
        TASK.open([str(tmp_path)], "train")


@pytest.mark.parametrize("data", [[], ["no/such/folder"], ["no/such/folder", "builtin"]])
def test_open_refuses_what_is_not_there(data):
    with pytest.raises(DataError):
        TASK.open(data, "train")


@pytest.mark.shared_data
def test_published_photos_are_scored_at_their_own_size(shared_data):
    photos = TASK.open([str(shared_data / "saliency" / "ecssd")], "test")
    target = photos.original(0)["target"]
    assert TASK.score(as_prediction(target), target)["mae"] == pytest.approx(0.0, abs=1e-7)
