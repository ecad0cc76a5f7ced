"""The report of browser targets: what they cost, failures, software rendering told apart, storage called storage."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from report_store import DATA, Reader, artifact, publish, report, score_rows, speed_rows, text_of, two
from web_store import CARD, NO_ADAPTER, STALLED, browser, failed_row, fill_web, lines_of, section, web_rows

from compress.core.store import Store
from reports import words
from reports.frame import failures, tidy


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("web"))
    made, rows = fill_web(store)
    return made, rows, *report(store, store.root / "report")


def known(rows, model, quantity, target="wasm"):
    return next(r for r in rows if (r.artifact, r.quantity, r.target) == (model.id, quantity, target))


def test_what_a_model_costs_in_the_browser_is_what_the_rows_say(web) -> None:
    made, rows, _, page = web
    _, tables = section(page, "web")
    shown = lines_of(tables["Download, speed and memory on wasm"])
    assert list(shown) == ["big", "small-uint8", "small"]
    for name, cells in shown.items():
        model = made[name]
        samples = known(rows, model, "latency").repeats
        expected = {
            "Download": model.bytes / 1e6,
            "Load": 1e3 * known(rows, model, "load").value,
            "First run": 1e3 * known(rows, model, "first").value,
            "Latency p50": 1e3 * np.quantile(samples, 0.5),
            "p90": 1e3 * np.quantile(samples, 0.9),
            "p99": 1e3 * np.quantile(samples, 0.99),
            "JS memory": 31.0,
            "WASM memory": 140.0,
            "Whole browser": known(rows, model, "peak_memory").value / 1e6,
        }
        for heading, value in expected.items():
            assert float(cells[heading][0]) == pytest.approx(value, rel=6e-3), heading
        sent = [float(note.split()[1]) for note in cells["Download"][1:]]
        assert sent == pytest.approx([0.92 * model.bytes / 1e6, 0.9 * model.bytes / 1e6], rel=6e-3)
        start = known(rows, model, "load").value + known(rows, model, "first").value
        for network, bits, trip in (("slow 4G", 1.6e6, 0.15), ("cable", 5e6, 0.028)):
            sent = 8 * (0.92 * model.bytes + 350_000) / bits + 2 * trip
            said = cells[f"First mask, {network}"]
            assert float(said[0]) == pytest.approx(sent + start, rel=6e-3)
            assert said[1] == f"network {words.three(sent)}"
    assert "GPU memory" not in shown["big"]
    software = next(
        table for caption, table in tables.items() if caption.startswith("Download, speed and memory on webgl")
    )
    assert float(lines_of(software)["big"]["GPU memory"][0]) == 210


def test_a_large_photo_is_held_against_its_limit(web) -> None:
    text, tables = section(web[3], "web")
    shown = lines_of(tables["Download, speed and memory on wasm"])
    assert shown["big"]["1024 px a side"] == ["✓", "25.0", ", within the limit", "768×1024", "1 thread"]
    assert shown["small"]["1024 px a side"][:3] == ["✗", "25.1", ", outside the limit"]
    assert "2 of 3 pairs of model and target finish 1024 px a side in time; too late: small on wasm." in text
    assert "0 of 2 pairs of model and target with software rendering finish" in text
    assert "s, limit 25" in text


def test_the_environment_is_told_at_every_table(web) -> None:
    text, _ = section(web[3], "web")
    where = re.findall('<p class="where">(.*?)</p>', text)
    for part in ("320 px", "Chromium 141.0.7390.65", "TF.js 4.22.0", "backend wasm", "2 threads", "SIMD", "30 repeats",
                 "cross-origin isolated", "0.350 MB gzip", "Test CPU 9000"):  # fmt: skip
        assert part in where[0], part
    assert "SwiftShader Device" in where[1]
    assert "threads" not in where[1]
    assert "1.60 Mbit/s, 150 ms round trip; cable: 5.00 Mbit/s, 28.0 ms round trip" in text


def test_a_failure_stands_where_the_number_would_with_its_reason(web) -> None:
    _, _, written, page = web
    text, tables = section(page, "web")
    webgl = next(
        table for caption, table in tables.items() if caption.startswith("Download, speed and memory on webgl,")
    )
    assert [line[1:] for line in webgl if line[0] == ["small"]] == [[[f"failed: {STALLED}"]]]
    lost = tables["Download, speed and memory on webgpu"]
    assert [line[1] for line in lost[1:]] == [[f"failed: {NO_ADAPTER}"]] * 3
    assert "nothing came through here" in text
    assert "<script>" not in page
    markdown = written.markdown.read_text(encoding="utf-8")
    assert f"failed: {STALLED} |" in markdown
    assert "<script>" not in markdown
    with written.csv.open(encoding="utf-8") as stream:
        told = [line for line in csv.DictReader(stream) if line["quantity"] == "failed"]
    assert sorted((line["name"], line["target"], line["reason"]) for line in told) == [
        ("big", "webgpu", NO_ADAPTER),
        ("small", "webgl", STALLED),
        ("small", "webgpu", NO_ADAPTER),
        ("small-uint8", "webgpu", NO_ADAPTER),
    ]


def test_a_failure_is_made_up_for_by_a_later_run_only(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    known = [teacher, model]
    failed = failed_row(model, "lost", target="wasm", run="two")
    before, beside, after = (web_rows(model, 0.1, 0, run=run) for run in ("one", "two", "three"))
    assert len(failures(tidy(known, [*before, failed, *beside]))) == 1
    assert len(failures(tidy(known, [failed, *after]))) == 0
    assert len(failures(tidy(known, [failed, *score_rows(model, 0.3, 0, target="wasm", run="three")]))) == 1
    store.add_rows([*web_rows(teacher, 0.4, 1, run="one"), *before, failed])
    page = report(store, tmp_path / "out")[1]
    cell = lines_of(next(iter(section(page, "web")[1].values())))["small"]["Latency p50"]
    assert float(cell[0]) == pytest.approx(1e3 * before[5].value, rel=6e-3)
    assert cell[-1] == "newest run failed: lost"


def test_outside_a_browser_failures_are_told_too(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows([
        *speed_rows(teacher, 0.4, 0), *score_rows(teacher, 0.3, 0),
        failed_row(model, "out of memory", target="cpu"), failed_row(model, "no such operator", target="torch"),
    ])  # fmt: skip
    page = report(store, tmp_path / "out")[1]
    assert "small on torch failed: no such operator" in page
    assert Reader(page).lines()["small"][-1] == ["failed", "out of memory"]
    assert "failed: out of memory" in text_of(page)
    assert "In the browser" not in page


def test_software_rendering_is_labelled_wherever_its_speed_stands(web) -> None:
    _, _, written, page = web
    caveat = "software rendering (SwiftShader): not a GPU's speed"
    text, tables = section(page, "web")
    assert f"<h3>webgl, {caveat.replace(chr(39), '&#39;')}</h3>" in text
    assert [caption for caption in tables if "webgl" in caption] == [
        f"Download, speed and memory on webgl, {caveat.replace(chr(39), '&#39;')}"
    ]
    plots = [image["alt"] for image in Reader(page).images if "Latency on webgl" in image["alt"]]
    assert len(plots) == 1
    assert caveat in plots[0]
    assert f"### webgl, {caveat}" in written.markdown.read_text(encoding="utf-8")
    assert "software" not in " ".join(caption for caption in tables if "wasm" in caption)


def test_no_sentence_quotes_a_speed_of_software_rendering(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    scored = [*score_rows(teacher, 0.3, 0), *score_rows(model, 0.31, 1)]
    store.add_rows([*scored, *web_rows(teacher, 40.0, 0, target="webgl"), *web_rows(model, 9.0, 0, target="webgl")])
    page = report(store, tmp_path / "out")[1]
    said = re.search("<h1>(.*?)</h1>", page)[1] + "".join(re.findall("<li>(.*?)</li>", page))
    assert "small is 4.00× smaller than big, " in said
    assert "faster" not in said
    assert "First mask over" not in said
    assert "4.44× faster" in page  # inside its own table, between its own lines


def test_a_card_and_its_imitation_are_never_set_against_each_other(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    real = browser("webgl", renderer=CARD, software=False)
    store.add_rows([
        *score_rows(teacher, 0.3, 0), *score_rows(model, 0.31, 1),
        *web_rows(teacher, 0.2, 0, target="webgl", runtime=real),
        *web_rows(model, 9.0, 0, target="webgl"),
    ])  # fmt: skip
    written, page = report(store, tmp_path / "out")
    _, tables = section(page, "web")
    assert [len(rows) for rows in tables.values()] == [2, 2]
    assert next(iter(tables)) == "Download, speed and memory on webgl"
    assert "× faster" not in page
    assert "× slower" not in page
    assert "latency_ratio" not in set(pd.read_csv(written.csv)["quantity"])
    assert not [image for image in Reader(page).images if image["alt"].startswith("Latency")]


def test_other_versions_of_a_browser_stand_apart(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    newer = browser(browser_version="142.0")
    store.add_rows([*web_rows(teacher, 0.4, 0), *web_rows(model, 0.1, 0, runtime=newer)])
    page = report(store, tmp_path / "out")[1]
    text, _ = section(page, "web")
    assert text.count("<h3>wasm</h3>") == 2
    assert "× faster" not in page


def test_speeds_in_browsers_leave_the_headline_to_the_cpu(web) -> None:
    page = web[3]
    assert re.search("<h1>(.*?)</h1>", page)[1].endswith(
        "faster than big on cpu, at +3.3 % loss (95 % interval +3.3 to +3.3 %)."
    )
    heads = ["".join(cell[:1]) for cell in Reader(page).tables[0][1]]
    assert [head for head in heads if head.startswith("Latency")] == ["Latency, cpu"]


def test_storage_types_are_called_storage(web, tmp_path) -> None:
    _, _, written, page = web
    note = "In TF.js uint8 is storage only: the download shrinks, the arithmetic stays float32."
    assert page.count(note) == 4  # at the comparison, at both tables in browsers that show it, at the matrix
    assert written.markdown.read_text(encoding="utf-8").count(note) == 4
    shown = section(page, "web")[1]["Download, speed and memory on wasm"]
    assert "".join(shown[2][0]) == "small-uint8uint8 storage"
    other = Store(tmp_path)
    teacher, _ = two(other)
    half = publish(other, artifact("half", parent=teacher.id, dtype="float16"), 2000)
    ort = browser(runtime="ort-web", version="1.23.0")
    other.add_rows(
        web_rows(half, 0.2, 0, target="ort-wasm", runtime=ort)
        + web_rows(teacher, 0.2, 0, target="ort-wasm", runtime=ort)
    )
    assert "storage" not in text_of(report(other, tmp_path / "a")[1]).partition("How it was made")[0]
    textures = browser("webgl", half=True)
    other.add_rows(web_rows(half, 0.2, 0, target="webgl-f16", runtime=textures))
    page = report(other, tmp_path / "b")[1]
    assert "In TF.js float16 is storage only: the download shrinks, the arithmetic is done in float16 textures" in page
    assert "float16 textures" in page


def test_csv_tells_environment_and_verdicts(web) -> None:
    _, rows, written, _ = web
    told = pd.read_csv(written.csv, dtype={"unit": str}, float_precision="round_trip")
    measured = told[told["source"] == "measured"]
    assert len(measured) == len(rows)
    parity = measured[measured["quantity"] == "parity_max"].set_index(["name", "target"])
    assert parity.loc[("big", "webgl"), ["value", "limit", "passed"]].tolist() == [0.00101, 0.001, False]
    assert parity.loc[("small-uint8", "cpu"), ["images", "reference_target"]].tolist() == [12, "torch"]
    assert np.isnan(parity.loc[("small-uint8", "cpu"), "limit"])
    mask = measured[(measured["quantity"] == "first_mask_4g") & (measured["target"] == "webgl")].iloc[0]
    assert (mask["browser"], mask["software"], mask["unit"]) == ("chromium 141.0.7390.65", True, "s")
    assert "SwiftShader" in mask["renderer"]
    assert measured[measured["target"] == "cpu"]["browser"].isna().all()


def test_commands_name_the_target_the_runtime_and_the_browser(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, _ = two(store)
    ort = browser(runtime="ort-web", browser="firefox", browser_version="153.0")
    store.add_rows([
        *web_rows(teacher, 0.4, 0, target="ort-wasm-firefox", runtime=ort),
        failed_row(teacher, "hung", target="webgl-f16"),
    ])  # fmt: skip
    text = text_of(report(store, tmp_path / "out")[1])
    assert f"benchmarks run --target wasm --runtime ort-web --browser firefox --model {teacher.id} --size 320" in text
    assert f"benchmarks run --target webgl-f16 --model {teacher.id}" in text
    assert "Firefox 153.0 · ONNX Runtime Web 4.22.0" in text


def test_without_rows_of_a_browser_nothing_of_it_is_there(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows(score_rows(teacher, 0.3, 0) + speed_rows(teacher, 0.4, 0) + speed_rows(model, 0.1, 1))
    written, page = report(store, tmp_path / "out")
    for text in (text_of(page.partition("</style>")[2]), written.markdown.read_text(encoding="utf-8")):
        for word in ("rowser", "arity", "First mask", "software rendering", "storage", "failed", "✓", "✗"):
            assert word not in text, word


def test_hidden_words_and_links_hold_together(web) -> None:
    page = web[3]
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {address[1:] for tag, address in Reader(page).links if tag == "a"} <= ids
    assert {"saliency-web", "saliency-parity"} <= ids
    assert DATA in page
