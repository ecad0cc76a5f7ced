"""The section that tells how models were quantized: its table, its plot of what layers cost, what folds away."""

import io
import math
import re

import numpy as np
import pytest
from PIL import Image
from report_store import Reader, artifact, publish, report, score_rows, text_of, two

from compress.core.store import Store
from reports.plots import DARK, LIGHT
from reports.quantized import without_told
from reports.sensitivity_plot import MOST, Bar, Costs, draw_costs

ERRORS = [0.004 * 0.9**k for k in range(40)]
LAYERS = [{"name": f"conv_{k}", "operator": "Conv", "error": error} for k, error in enumerate(ERRORS)]
LAYERS[0] |= {"loss_given_back": 0.0123, "distance_given_back": 9.7e-5}
LAYERS[1] |= {"loss_given_back": -0.0004, "distance_given_back": -1.1e-4}
SETTINGS = {"clip": "mse", "bias": "analytic", "equalize": True, "rounding": "nearest"}
WHOLE = {
    "quantized": 39, "forms": {"int8": 38, "float32": 2},
    "left": {"sigmoid": "the head", "conv_0": "kept wide", "conv_3": "kept wide"},
    "operators": {"Conv": 38, "Add": 3}, "bytes_before": 9_786_158, "bytes_after": 2_550_907, "images": 32,
    "sqnr": math.nan,
    "style": "all", "style_reason": "maps stay 8 bits", "settings": SETTINGS, "selection": "250b0467fdf288d7",
    "tried": [{**SETTINGS, "clip": "minmax", "distance": 0.00175, "loss": 0.3421, "kept": True},
              {**SETTINGS, "distance": 0.00147, "loss": 0.342, "kept": True},
              {**SETTINGS, "rounding": "adaround", "distance": 0.00183, "loss": 0.3422, "kept": False}],
    "sensitivity": LAYERS, "distance": 0.00147, "selection_loss_increase": 0.0004,
    "widened": {"limit": 0.001, "kept": ["conv_0", "conv_3"], "holds": True, "trail": [
        {"kept": [], "loss_increase": 0.0046, "distance": 0.002},
        {"kept": ["conv_0", "conv_3"], "loss_increase": 0.0004, "distance": 0.00147}]},
}  # fmt: skip
VERDICT = {"rejected": [], "shrink": 3.836, "loss": {"value": 0.00026, "low": -0.00109, "high": 0.00163, "n": 64},
           "speed": {"value": 2.14, "low": 2.0, "high": 2.25, "n": 30}, "runtime": "ort"}  # fmt: skip
TABLE = "How every quantized model was made"


def page_with(root, quantization, **notes):
    """The store with a teacher and one model of these notes, the report's files, the page."""
    store = Store(root)
    teacher, model = two(
        store, notes={"quantization": quantization, **notes}, options={"engine": "ort", "runtime": "ort"}
    )
    store.add_rows([*score_rows(teacher, 0.3, 0), *score_rows(model, 0.31, 1)])
    return model, *report(store, root / "report")


def section_of(page):
    found = re.search(r'<section id="saliency-quantized">.*?</section>', page, re.DOTALL)
    return found.group(0) if found else ""


def tables_of(section):
    """Every table of the section by its caption, as lists of cells, each a list of texts."""
    captions = re.findall(r'<caption class="away">(.*?)</caption>', section)
    return dict(zip(captions, Reader(section).tables, strict=True))


def line_of(page):
    """The one line of the table: heading -> texts of the cell."""
    heads, line = tables_of(section_of(page))[TABLE]
    return {head[0]: cell for head, cell in zip(heads, line, strict=True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return page_with(tmp_path_factory.mktemp("whole"), WHOLE, verdict=VERDICT)


def test_the_table_tells_how_a_model_was_made(whole) -> None:
    line = line_of(whole[2])
    assert line["Model"] == ["small", "int8"]
    assert line["Rounded by"] == ["ort", "maps: all", "for ort", "32 photos seen"]
    assert line["Layers"] == ["38 int8", "2 float32"]
    assert line["Switched on"] == ["mse ranges", "bias correction", "equalized channels"]
    assert line["Distance"] == ["0.00147"]
    assert line["Loss"] == ["+0.04 %", "limit +0.10 %"]
    assert line["Kept wide"] == ["2 layers", "conv_0 and conv_3"]
    assert line["Verdict"] == [
        "kept",
        "3.84× smaller",
        "loss +0.03 % [−0.11, +0.16]",
        "2.14× faster [2.00, 2.25] in ort",
    ]


def test_a_rejection_says_why(tmp_path) -> None:
    reasons = ["loss +6.10%, allowed +5.00%", "3.10x smaller, wanted 3.6x"]
    line = line_of(page_with(tmp_path, WHOLE, verdict=VERDICT | {"rejected": reasons}, rejected=reasons)[2])
    assert line["Verdict"][:3] == ["rejected", *reasons]
    assert "rejected" in line["Model"]


def test_a_limit_that_does_not_hold_stands_out(tmp_path) -> None:
    widened = {"limit": 0.001, "kept": [], "holds": False, "trail": []}
    notes = WHOLE | {"widened": widened, "selection_loss_increase": 0.02}
    page = page_with(tmp_path, notes)[2]
    assert line_of(page)["Kept wide"] == ["none", "no set of layers holds the limit"]
    assert line_of(page)["Loss"] == ["+2.00 %", "limit +0.10 %"]
    assert section_of(page).count('<td class="bad ') == 2


def test_what_layers_cost_is_told_in_words_and_numbers(whole) -> None:
    section = section_of(whole[2])
    squares = np.square(ERRORS)
    half = int(np.searchsorted(np.cumsum(squares), squares.sum() / 2)) + 1
    assert (
        f"conv_0 costs most, an RMS change of 0.00400; {half} layers make half of the squared error of all 40."
        in section
    )
    back = tables_of(section)["What keeping one layer of small in float gives back"]
    assert ["".join(row[0]) for row in back[1:]] == ["conv_0", "conv_1"]
    assert [[cell[0] for cell in row[1:]] for row in back[1:]] == [
        ["Conv", "0.00400", "+1.23 %", "+9.7e−5"],
        ["Conv", "0.00360", "−0.04 %", "−1.1e−4"],
    ]


def test_the_plot_is_a_file_and_in_the_page_with_an_alt_text(whole) -> None:
    model, written, page = whole
    path = next(path for path in written.png if path.name == f"layer_cost-small-{model.id}.png")
    image = next(each for each in Reader(section_of(page)).images)
    with Image.open(path) as picture:
        assert picture.size == (int(image["width"]), int(image["height"]))
    assert f"the {MOST} worst of 40 layers" in image["alt"]
    assert "conv_0: 0.00400, kept in float; conv_1: 0.00360; " in image["alt"]
    assert "conv_30" not in image["alt"]
    sources = [address for tag, address in Reader(section_of(page)).links if tag in ("img", "source")]
    assert len(set(sources)) == 2  # light and dark
    assert all(address.startswith("data:image/png;base64,") for address in sources)
    assert path.name in written.markdown.read_text(encoding="utf-8")


def test_what_was_tried_and_searched_folds_away(whole) -> None:
    section = section_of(whole[2])
    folded = re.findall(r"<details>\s*<summary>(.*?)</summary>", section)
    assert folded == ["What was tried (3)", "Search for layers to keep wide (2)", "Not computed in 8 bits (2)"]
    tables = tables_of(section)
    tried = tables["What was tried (3), small"]
    assert [cell[0] for cell in tried[0]] == ["Ranges", "Bias correction", "Equalized channels", "Rounding", "Distance",
                                              "Loss", "Kept"]  # fmt: skip
    assert [cell[0] for cell in tried[1]] == ["minmax", "analytic", "on", "nearest", "0.00175", "0.3421", "✓ kept"]
    assert [row[-1][0] for row in tried[1:]] == ["✓ kept", "✓ kept", "no"]
    searched = tables["Search for layers to keep wide (2), small"]
    assert [cell[0] for cell in searched[1]] == ["0", "+0.46 %", "0.00200"]
    assert [cell[0] for cell in searched[2]] == ["2", "+0.04 %", "0.00147"]
    left = tables["Not computed in 8 bits (2), small"]
    assert [[cell[0] for cell in row[1:]] for row in left[1:]] == [["sigmoid", "1"], ["conv_0 and conv_3", "2"]]


def test_markdown_tells_the_same(whole) -> None:
    text = whole[1].markdown.read_text(encoding="utf-8")
    assert "## saliency: how it was quantized" in text
    line = next(line for line in text.splitlines() if line.startswith("| small") and "38 int8" in line)
    plain = line.replace("\\", "")
    assert "mse ranges<br>bias correction; equalized channels" in plain
    assert "kept<br>3.84× smaller; loss" in plain
    head = text.splitlines()[text.splitlines().index(line) - 2]
    assert head.count("|") == plain.count("|") == 9
    assert "<details><summary>What was tried (3)</summary>\n\n| Ranges |" in text
    assert "| minmax | analytic | on | nearest | 0.00175 | 0.3421 | ✓ kept |" in text


def test_what_the_section_tells_is_not_told_twice(whole) -> None:
    made = whole[2].split('<section id="saliency-made">')[1]
    assert "sensitivity" not in made
    assert "quantization" not in text_of(made)
    model = artifact(notes={"quantization": WHOLE, "verdict": VERDICT, "parent_metrics": {"loss": 1.0}})
    assert without_told(model).notes == {"parent_metrics": {"loss": 1.0}}


def test_an_older_manifest_shows_what_it_has(tmp_path) -> None:
    older = {"quantized": 119, "left": {"node_sigmoid": "the head"}, "operators": {"Conv": 119}, "images": 128,
             "bytes_before": 4_600_250, "bytes_after": 1_262_938, "sqnr": 24.65}  # fmt: skip
    _, written, page = page_with(tmp_path, older)
    line = line_of(page)
    assert line["Layers"] == ["119 int8"]
    assert line["Rounded by"][-1] == "128 photos seen"
    assert [line[head] for head in ("Distance", "Loss", "Kept wide")] == [["–"]] * 3
    assert line["Verdict"] == ["not judged"]
    assert "24.6 dB" in section_of(page)
    assert not [path for path in written.png if path.name.startswith("layer_cost")]


def test_a_store_without_quantized_models_has_no_such_section(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows([*score_rows(teacher, 0.3, 0), *score_rows(model, 0.31, 1)])
    written, page = report(store, tmp_path / "report")
    assert not section_of(page)
    assert "quantized" not in written.markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("helped", [True, False])
def test_trained_models_show_the_distance_they_ship_with(tmp_path, helped) -> None:
    qat = {"steps": 600, "stopped": "", "best_step": 540 if helped else 0, "helped": helped, "start_distance": 0.0167,
           "best_distance": 0.0091 if helped else 0.0167, "curve": []}  # fmt: skip
    page = page_with(tmp_path, WHOLE | {"distance": 0.0167, "qat": qat})[2]
    assert line_of(page)["Distance"] == (["0.00910", "0.0167 before training"] if helped else ["0.0167"])
    assert ("before training" in line_of(page)["Loss"]) is helped
    assert ("that of step 540 was taken" if helped else "did not help") in section_of(page)


def test_trained_models_tell_what_ships_and_what_it_was_before(tmp_path) -> None:
    qat = {"steps": 600, "stopped": "", "best_step": 540, "helped": True, "start_distance": 0.02, "best_distance": 0.01,
           "curve": [], "before": {"distance": 0.0167, "selection_loss_increase": 0.02}}  # fmt: skip
    page = page_with(tmp_path, WHOLE | {"distance": 0.0088, "qat": qat})[2]
    assert line_of(page)["Distance"] == ["0.00880", "0.0167 before training"]
    assert line_of(page)["Loss"] == ["+0.04 %", "limit +0.10 %"]  # of what ships


def test_mixed_plans_show_what_4_bits_cost(tmp_path) -> None:
    mixed = [{"four_bits": 12, "loss_increase": 0.002, "distance": 0.004}]
    notes = {key: WHOLE[key] for key in ("forms", "settings", "distance")} | {
        "mixed": mixed,
        "four_bit_sensitivity": LAYERS,
    }
    section = section_of(page_with(tmp_path, notes)[2])
    assert "What 4 bits in each layer cost: small." in Reader(section).images[0]["alt"]
    searched = tables_of(section)["Search for layers to put in 4 bits (1), small"]
    assert [cell[0] for cell in searched[1]] == ["12", "+0.20 %", "0.00400"]


def test_names_are_never_markup(tmp_path) -> None:
    evil = "<b>$x_1$|`y`</b>"
    layers = [{"name": evil, "operator": "Conv", "error": 0.5, "loss_given_back": 0.1}]
    notes = WHOLE | {
        "sensitivity": layers,
        "left": {evil: evil},
        "widened": {"limit": 0.1, "kept": [evil], "trail": []},
    }
    _, written, page = page_with(tmp_path, notes, rejected=[evil])
    assert "<b>" not in page
    assert "<b>" not in written.markdown.read_text(encoding="utf-8")
    assert "$x_1$|`y`" in text_of(section_of(page))
    assert all(
        len(row) == 5 for row in tables_of(section_of(page))["What keeping one layer of small in float gives back"]
    )


@pytest.mark.parametrize("errors", [[], [0.0, 0.0], [math.nan]])
def test_costs_that_are_none_draw_nothing(tmp_path, errors) -> None:
    layers = [{"name": f"n{k}", "operator": "Conv", "error": error} for k, error in enumerate(errors)]
    _, written, page = page_with(tmp_path, WHOLE | {"sensitivity": layers})
    assert not [path for path in written.png if path.name.startswith("layer_cost")]
    assert "<figure>" not in section_of(page)


def test_models_of_one_name_are_told_apart(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store, notes={"quantization": WHOLE})
    twin = publish(store, artifact("small", parent=teacher.id, method="quantize", dtype="int8", key="twin",
                                   notes={"quantization": WHOLE}), 1000)  # fmt: skip
    store.add_rows([row for seed, each in enumerate((teacher, model, twin)) for row in score_rows(each, 0.3, seed)])
    written, page = report(store, tmp_path / "report")
    lines = tables_of(section_of(page))[TABLE][1:]
    assert {line[0][-1] for line in lines} == {model.id, twin.id}
    assert len([path for path in written.png if path.name.startswith("layer_cost")]) == 2


def painted(path, color):
    """Pixels close to a colour."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int16)
    wanted = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
    return np.abs(pixels - wanted).max(axis=-1) < 12


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_bars_grow_with_the_logarithm_and_kept_layers_have_their_colour(tmp_path, colors) -> None:
    path = tmp_path / "bars.png"
    bars = (Bar("a", 1e-2, kept=True), Bar("b", 1e-3), Bar("c", 1e-4))
    draw_costs(Costs("Costs", "m", bars, 3), path, colors=colors)
    rounded = painted(path, "#d55e00")
    wide = np.flatnonzero(rounded.sum(axis=1) > 60)  # rows of pixels within bars, the legend's patch is narrower
    runs = np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1)
    assert len(runs) == 2
    ends = [int(np.flatnonzero(rounded[run[len(run) // 2]]).max()) for run in runs]
    kept = painted(path, colors.get("train", "#0072b2"))
    top = kept[: runs[0][0]]
    end = int(np.flatnonzero(top.any(axis=0)).max())
    assert end - ends[0] == pytest.approx(ends[0] - ends[1], abs=6)  # a factor of ten each
    assert not kept[runs[0][0] : runs[1][-1]].any()
    with Image.open(path) as picture:
        ground = np.asarray(picture.convert("RGB"))[0, 0]
    assert "#" + "".join(f"{value:02x}" for value in ground) == colors["ground"]


def test_the_same_costs_give_the_same_file(tmp_path) -> None:
    costs = Costs("Costs", "a_very_long_name_" * 8 + "$", (Bar("x" * 90 + "$_$", 2e-7), Bar("y", 1e-9)), 7)
    for name in ("one.png", "two.png"):
        draw_costs(costs, tmp_path / name, colors=LIGHT)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(io.BytesIO((tmp_path / "one.png").read_bytes())) as picture:
        assert picture.size == costs.pixels
