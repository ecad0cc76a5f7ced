"""The sections of distillation, pruning and chains: their tables, plots, and what they must not claim."""

import re

import numpy as np
import pytest
from PIL import Image
from report_store import Reader, artifact, losses_around, publish, report, score_rows, text_of

from compress.core.store import Store
from compress.kit.distill.recipe import read_recipe, recipe_names
from reports.channels_plot import Kept, Layer, draw_kept
from reports.lineage import command_of
from reports.plots import DARK, LIGHT
from reports.recipes import recipe_name, term_words
from reports.temperature_plot import Sweep, draw_sweep

FIT = {"data": ["photos"], "steps": 400, "size": 64, "batch": 8, "seed": 0}
KL = {"kl": {"loss": "kl", "weight": 1.0, "confidence": False}, "hard": {"loss": "hard", "weight": 0.5,
      "balance": "none"}, "iou": {"loss": "iou", "weight": 0.5, "of": "labels"}}  # fmt: skip
LEARNED = {"teacher": "big", "student": "tiny", "temperature": 2.0, "recipe": {"terms": KL}, "taps": None,
           "init": "own", "unlabelled": 0, "patterns": 0}  # fmt: skip
LAYERS = [{"path": f"conv{k}", "before": 16, "after": 16 - k} for k in range(4)]
CUT = {"channels": [64, 58], "parameters": [2_000_000, 500_000], "macs": [9_000_000, 3_000_000], "ratio": 0.25,
       "layers": LAYERS, "stays": [{"path": "conv0", "why": "it makes an output"}]}  # fmt: skip
SPEED = {"value": 1.5, "low": 1.4, "high": 1.6, "n": 30}
LOSS = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 64}
NBSP = "\N{NO-BREAK SPACE}"


class Made:
    """A store that grows model by model."""

    def __init__(self, root):
        self.store, self.count = Store(root / "store"), 0
        self.root = root

    def model(self, name, loss=None, size=1000, born=None, **fields):
        self.count += 1
        when = f"2026-01-02T03:{self.count:02d}:00.000"
        # a prediction no image of which is harder for one model than for another would give intervals of no width
        made = publish(self.store, artifact(name, created=when, metrics={"loss": born, "images": 64.0} if born else {},
                                            format="safetensors", **fields), size)  # fmt: skip
        if loss is not None:
            self.store.add_rows(score_rows(made, loss, self.count))
        return made

    def teacher(self, loss=0.3, **fields):
        return self.model("big", loss, 8000, kind="teacher", network="big", options=dict(FIT), **fields)

    def alone(self, loss=0.5, seed=0, **options):
        return self.model(f"alone{seed}", loss, network="tiny", seed=seed, options=FIT | {"seed": seed} | options)

    def student(self, name, teacher, loss=0.4, seed=0, parent="", born=None, **options):
        return self.model(name, loss, method="distill", network="tiny", teacher=teacher.id, seed=seed, parent=parent,
                          born=born, options=FIT | LEARNED | {"seed": seed} | options)  # fmt: skip

    def page(self):
        return report(self.store, self.root / "report")


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def section_of(page, what):
    found = re.search(rf'<section id="saliency-{what}">.*?</section>', page, re.DOTALL)
    return found.group(0) if found else ""


def lines_of(page, what, index=0):
    """The table of a section: name -> heading -> texts of the cell."""
    heads, *rows = Reader(section_of(page, what)).tables[index]
    return {row[0][0] if row[0][0].isalnum() else "".join(row[0]): {
        head[0]: cell for head, cell in zip(heads, row, strict=True)} for row in rows}  # fmt: skip


def test_a_student_stands_beside_its_teacher_and_itself_alone(made) -> None:
    teacher = made.teacher(0.3)
    made.alone(0.5)
    made.student("pupil", teacher, 0.4)
    line = lines_of(made.page()[1], "distilled")["pupil"]
    assert line["Learned from"] == ["big", "8.00× smaller"]
    assert line["Recipe"] == [f"saliency, T{NBSP}={NBSP}2", "kl × 1", "hard × 0.5", "iou × 0.5"]
    assert line["Steps"] == ["400", "from its own weights", "64 px", "batch 8", "seed 0"]
    assert line["Loss"] == ["0.4000"]
    # an independent bootstrap over the very same images
    theirs, alone, mine = losses_around(0.3, 1), losses_around(0.5, 2), losses_around(0.4, 3)
    for head, other in (("Against teacher", theirs), ("Against alone", alone)):
        value, interval, told = line[head]
        assert float(value.removesuffix(" %").replace("−", "-")) == pytest.approx(
            100 * (mine.mean() / other.mean() - 1), abs=0.06
        )
        low, high = (float(end) for end in interval.strip("[]").replace("−", "-").split(", "))
        picks = np.random.default_rng(5).integers(0, len(mine), (4000, len(mine)))
        spread = np.percentile(mine[picks].mean(1) / other[picks].mean(1) - 1, [2.5, 97.5])
        assert (low, high) == pytest.approx(tuple(100 * spread), abs=0.8)
        assert told == f"of {other.mean():.4f}"
    assert line["MAE"] == ["0.08000", "teacher 0.06000", "+33.3 %", "alone 0.1000", "−20.0 %"]


@pytest.mark.parametrize("other", [{"steps": 401}, {"size": 32}, {"batch": 4}, {"data": ["others"]}])
def test_what_was_trained_otherwise_is_no_rival(made, other) -> None:
    teacher = made.teacher()
    made.alone(0.5, **other)
    made.student("pupil", teacher)
    cell = lines_of(made.page()[1], "distilled")["pupil"]["Against alone"]
    assert cell == ["–", "never trained alone with these steps"]


def test_another_seed_is_no_rival_and_a_head_start_has_none(made) -> None:
    teacher = made.teacher()
    made.alone(0.5, seed=1)
    made.student("pupil", teacher)
    made.student("heir", teacher, init="teacher")
    lines = lines_of(made.page()[1], "distilled")
    assert lines["pupil"]["Against alone"][0] == "–"
    assert lines["heir"]["Against alone"] == ["–", "starts from weights that were trained before"]
    assert "from the teacher's channels" in lines["heir"]["Steps"]


def test_without_rows_the_validation_split_is_told_and_no_interval(made) -> None:
    teacher = made.teacher(0.3, born=0.32)
    made.student("pupil", teacher, loss=None, born=0.4)
    line = lines_of(made.page()[1], "distilled")["pupil"]
    assert line["Loss"] == ["0.4000", "validation, at birth"]
    assert line["Against teacher"] == ["+25.0 %", "no interval", "of 0.3200"]


def test_scores_on_other_validation_pictures_are_not_compared(made) -> None:
    teacher = made.teacher(0.3, born=0.32)
    made.student("pupil", teacher, loss=None, born=0.4, data=["others"])
    line = lines_of(made.page()[1], "distilled")["pupil"]
    assert line["Against teacher"][0] == "not compared"


def test_a_teacher_that_is_gone_is_named(made) -> None:
    made.teacher()
    made.model("orphan", 0.4, method="distill", network="tiny", teacher="0123gone", options=FIT | LEARNED)
    line = lines_of(made.page()[1], "distilled")["orphan"]
    assert line["Learned from"] == ["big", "no longer here"]
    assert line["Against teacher"] == ["–", "not in the store"]


def test_temperatures_are_drawn_where_there_are_several(made) -> None:
    teacher = made.teacher(0.3)
    made.alone(0.5)
    for T, loss in ((4, 0.42), (1, 0.45), (2, 0.4)):
        made.student(f"T{T}", teacher, loss, temperature=float(T))
    made.student("other", teacher, 0.39, temperature=7.0, steps=200)  # of another sweep
    written, page = made.page()
    assert len([path for path in written.png if path.name.startswith("temperature-tiny-")]) == 1
    section = text_of(section_of(page, "distilled"))
    assert "tiny learns most from big by saliency at T = 2: loss 0.4000, −20.0 % against the same" in section
    alt = re.search(r'alt="(Loss by temperature[^"]*)"', page)[1]
    assert alt == ("Loss by temperature, tiny from big by saliency. T = 1: 0.4500; T = 2: 0.4000; T = 4: 0.4200; "
                   "big: 0.3000; trained alone: 0.5000.")  # fmt: skip
    assert alt in written.markdown.read_text(encoding="utf-8")


def test_seeds_share_a_sweep_and_are_averaged(made) -> None:
    teacher = made.teacher(0.3)
    for seed, drift in ((0, 0.0), (1, 0.02)):
        made.alone(0.5 + drift, seed=seed)
        for T, loss in ((1, 0.45), (2, 0.4)):
            made.student(f"T{T}s{seed}", teacher, loss + drift, seed=seed, temperature=float(T))
    page = made.page()[1]
    alt = re.search(r'alt="(Loss by temperature[^"]*)"', page)[1]
    assert "mean of 2 seeds. T = 1: 0.4600; T = 2: 0.4100; big: 0.3000; trained alone: 0.5100." in alt


def test_a_single_temperature_is_no_plot(made) -> None:
    made.student("pupil", made.teacher())
    written, page = made.page()
    assert not [path for path in written.png if path.name.startswith("temperature")]
    assert "learns most" not in page


def chain(made, **notes):
    teacher = made.teacher(0.3)
    thin = made.model(
        "thin", born=0.45, size=4000, method="prune", parent=teacher.id, network="big",
        options={"data": ["photos"], "ratio": 0.25, "macs": None, "importance": "l2", "scope": "layer", "round_to": 8},
        notes={"pruned": CUT, "parent_metrics": {"loss": 0.3},
               "verdict": {"rejected": [], "shrink": 4.0, "loss": LOSS, "speed": SPEED, "runtime": "ort"}} | notes,
    )  # fmt: skip
    again = made.student("again", teacher, 0.33, parent=thin.id)
    small = made.model("small", 0.34, 1000, method="quantize", dtype="int8", parent=again.id)
    return teacher, thin, again, small


def test_pruning_tells_what_went_and_what_came_back(made) -> None:
    chain(made)
    written, page = made.page()
    line = lines_of(page, "pruned")["thin"]
    assert line["Asked for"] == ["ratio 0.25", "l2 importance", "per layer", "multiples of 8"]
    assert line["Channels"] == ["64 → 58", "−9.4 %"]
    assert line["Parameters"] == ["2.00 M → 500 k", "−75.0 %"]
    assert line["MACs"] == ["9.00 M → 3.00 M", "−66.7 %"]
    assert line["Speed"] == ["1.50× faster", "[1.40, 1.60]", "in ONNX Runtime"]
    assert line["Loss"] == ["0.3000 → 0.4500", "+50.0 %", "[+40.0, +60.0]", "nothing trained yet"]
    assert line["Distilled since"][:2] == ["0.3300", "+10.0 %"]
    assert line["Distilled since"][3:] == ["against big", "again, 400 steps"]
    assert line["Verdict"] == ["kept"]
    assert any(path.name.startswith("channels-thin-") for path in written.png)
    layers = Reader(section_of(page, "pruned")).tables[1]
    assert [[cell[0] for cell in row] for row in layers[1:]] == [
        ["conv0", "16", "16", "100 %"], ["conv1", "16", "15", "94 %"], ["conv2", "16", "14", "88 %"],
        ["conv3", "16", "13", "81 %"]]  # fmt: skip
    made_of = section_of(page, "made")
    assert "conv3" not in made_of  # told once


def test_a_rejected_pruning_says_why_and_one_for_size_was_not_timed(made) -> None:
    why = ["0.98x the speed of its parent, not faster for certain"]
    chain(made, rejected=why, verdict={"rejected": why, "shrink": 4.0, "loss": None, "speed": None, "runtime": "ort"})
    line = lines_of(made.page()[1], "pruned")
    (cells,) = line.values()
    assert cells["Verdict"] == ["rejected", *why]
    assert cells["Speed"] == ["not timed"]
    assert cells["Loss"][1:] == ["not compared", "nothing trained yet"]


def test_a_chain_is_one_line_of_its_last_model(made) -> None:
    chain(made)
    lines = lines_of(made.page()[1], "chains")
    assert list(lines) == ["small"]
    line = lines["small"]
    assert line["Start"][:2] == ["train", "big"]
    assert line["Step 1"][:2] == ["prune", "thin"]
    assert line["Step 2"][:2] == ["distill", "again"]
    assert line["Step 2"][-1] == "learned from big"
    assert line["Step 3"][:3] == ["quantize int8", "small", "0.00100 MB"]
    assert "8.00× smaller" in line["Model"]


def test_chains_compare_losses_on_one_set_of_pictures(made) -> None:
    """The pruned one has no rows: the rows of the others are not set beside its loss at birth."""
    chain(made)
    line = lines_of(made.page()[1], "chains")["small"]
    assert "losses: validation, at birth" in line["Model"]
    assert "loss 0.4500" in line["Step 1"]
    assert not any("0.3300" in text or "0.3400" in text for cell in line.values() for text in cell)


def test_a_student_of_a_teacher_then_quantized_is_a_chain_too(made) -> None:
    teacher = made.teacher(0.3)
    pupil = made.student("pupil", teacher, 0.4)
    made.model("small", 0.42, 500, method="quantize", dtype="int8", parent=pupil.id)
    line = lines_of(made.page()[1], "chains")["small"]
    assert [line[head][1] for head in ("Start", "Step 1", "Step 2")] == ["big", "pupil", "small"]
    assert line["Step 2"][-1] == "+40.0 %"


def test_a_store_without_students_has_none_of_it(made) -> None:
    made.teacher()
    made.alone()
    page = made.page()[1]
    assert not any(section_of(page, what) for what in ("distilled", "pruned", "chains"))


def test_hostile_names_and_old_manifests_stay_text(made) -> None:
    teacher = made.teacher()
    evil = "<script>|$x$`"
    made.student(evil, teacher, recipe={"terms": {evil: {"loss": evil, "weight": 2.0, "T": 3.0}}}, temperature=1.0)
    made.student("old", teacher, recipe=None, temperature=None)
    written, page = made.page()
    assert "script" not in Reader(page).tags
    assert "<script>" not in written.markdown.read_text(encoding="utf-8")
    lines = lines_of(page, "distilled")
    assert lines["old"]["Recipe"] == ["not recorded"]


@pytest.mark.parametrize("task", ["saliency", "segmentation", "membrane", "retouch", "color"])
def test_every_shipped_recipe_is_known_by_its_terms(task) -> None:
    names = recipe_names(task)
    assert names
    for name in names:
        settings = read_recipe(name, task).settings()
        same = [other for other in names if read_recipe(other, task).settings()["terms"] == settings["terms"]]
        assert recipe_name(settings, task) in same
        changed = {key: term | {"weight": term["weight"] + 0.25} for key, term in settings["terms"].items()}
        assert recipe_name({"terms": changed}, task) == ""


def test_terms_in_words() -> None:
    assert term_words("kl", {"loss": "kl", "weight": 1.0}) == "kl × 1"
    assert term_words("mse", {"loss": "picture", "weight": 2.5}) == "mse × 2.5 (picture)"
    assert term_words("channels", {"weight": 3.0, "on": "taps", "T": 4.0}) == "channels × 3 on taps, T = 4"


def test_the_command_of_a_student_can_be_typed() -> None:
    made = artifact("s", method="distill", teacher="t1", parent="p1", options={
        "teacher": "big", "student": "thin", "temperature": 2.0, "recipe": {"terms": KL}, "taps": {"a": "b"},
        "unlabelled": 2, "perceptor": "ab12"})  # fmt: skip
    assert command_of(made) == ("compress distill --teacher t1 --student p1 --T 2 --recipe saliency --taps a=b "
                                "--unlabelled DIR --unlabelled DIR --perceptor FILE")  # fmt: skip


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_plots_are_of_the_size_they_say_and_not_blank(tmp_path, colors) -> None:
    sweep = Sweep("t-1", "a$_b", "c^d", "own", ((1.0, 0.5), (1.0, 0.6), (4.0, 0.4)), (("teacher", "x_$y", 0.3),), 2)
    kept = Kept("m", tuple(Layer(f"l{k}", 8, 8 - k % 3, k == 2) for k in range(30)))
    for draw, what in ((draw_sweep, sweep), (draw_kept, kept)):
        draw(what, tmp_path / "p.png", colors=colors)
        picture = Image.open(tmp_path / "p.png")
        assert picture.size == what.pixels
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
        assert "#{:02x}{:02x}{:02x}".format(*picture.convert("RGB").getpixel((1, 1))) == colors["ground"]
    assert sweep.best == (4.0, 0.4)
    assert "10 lost none. Lost most: l2: 8 to 6; l5: 8 to 6" in kept.alt
