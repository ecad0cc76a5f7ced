"""The parity matrix of the report, and the table at the end of `benchmarks run`: verdicts and failures in words."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_store import artifact, report, row, score_rows, text_of, two
from web_store import STALLED, browser, failed_row, fill_web, lines_of, parity_rows, section

from benchmarks.rows import Entry
from benchmarks.table import table
from compress.core.store import Store
from reports import words


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("web"))
    fill_web(store)
    return report(store, store.root / "report")[1]


def test_the_matrix_shows_both_differences_and_the_verdict_in_words(page) -> None:
    _, tables = section(page, "parity")
    matrix = lines_of(tables["Parity of every model on every target"])
    assert list(matrix["big"]) == ["torch", "cpu", "wasm", "webgl", "webgpu"]
    assert matrix["big"]["torch"] == ["reference"]
    assert matrix["big"]["cpu"] == ["–", ", not measured"]
    assert matrix["big"]["wasm"] == ["✓", "3.1e−6", ", within the limit", "ΔMAE +1.2e−8", "limit 0.001"]
    assert matrix["big"]["webgl"] == ["✗", "0.00101", ", outside the limit", "ΔMAE −2.0e−4", "limit 0.001"]
    assert matrix["small-uint8"]["wasm"][:2] == ["✓", "0.00420"]
    assert matrix["small-uint8"]["cpu"] == ["0.500", ", no limit declared", "ΔMAE +0.100", "no limit", "12 images"]
    assert matrix["small"]["webgl"] == ["failed", STALLED]
    assert matrix["small"]["wasm"] == ["–", ", not measured"]


def test_colours_follow_the_verdict_and_never_stand_alone(page) -> None:
    text, _ = section(page, "parity")
    cells = re.findall(r'<td class="([^"]*)">(.*?)</td>', text)
    assert {sign for classes, cell in cells for sign in "✓✗" if sign in cell and "within" in classes} == {"✓"}
    assert {sign for classes, cell in cells for sign in "✓✗" if sign in cell and "outside" in classes} == {"✗"}
    assert len([classes for classes, _ in cells if "within" in classes]) == 2
    assert len([classes for classes, _ in cells if "outside" in classes]) == 1
    assert len([classes for classes, _ in cells if "open" in classes]) == 1


def test_the_matrix_counts_itself_and_names_its_reference(page) -> None:
    text = text_of(section(page, "parity")[0])
    assert "1 of 3 pairs of model and target is outside its limit: big on webgl (0.00101, limit 0.001)." in text
    assert "1 pair held to no declared limit." in text
    assert "4 failed: big on webgpu, small-uint8 on webgpu, small on webgl and small on webgpu." in text
    assert "over 24 images" in text
    assert "against itself on torch" in text
    assert "against big on torch" in text


def parity_page(tmp_path, **rows):
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows([*score_rows(teacher, 0.3, 0), *(r for make in rows.values() for r in make(teacher, model))])
    page = report(store, tmp_path / "out")[1]
    return text_of(page), lines_of(next(iter(section(page, "parity")[1].values())))


def test_all_within_is_said_as_such(tmp_path) -> None:
    text, _ = parity_page(
        tmp_path, both=lambda teacher, model: parity_rows(teacher, 1e-3, 0) + parity_rows(model, 5e-3, 0, limit=5e-3)
    )
    assert "2 of 2 pairs of model and target are within their limits." in text
    assert "✗ 0" not in text


@pytest.mark.parametrize(
    ("largest", "mae", "passed"),
    [(float("nan"), 0.0, True), (1e-6, float("nan"), True), (1e-6, 0.0, False), (1e-6, -0.002, True)],
)
def test_what_is_no_number_or_did_not_pass_is_outside(tmp_path, largest, mae, passed) -> None:
    def rows(teacher, model):
        return [replace(r, details={**r.details, "passed": passed}) for r in parity_rows(model, largest, mae)]

    text, matrix = parity_page(tmp_path, rows=rows)
    assert matrix["small"]["wasm"][0] == "✗"
    assert "1 of 1 pairs of model and target is outside its limit" in text


def test_the_newest_parity_counts(tmp_path) -> None:
    text, matrix = parity_page(
        tmp_path,
        old=lambda teacher, model: parity_rows(model, 0.7, 0.1, run="old"),
        new=lambda teacher, model: parity_rows(model, 2e-6, 1e-9, run="new"),
    )
    assert matrix["small"]["wasm"][:2] == ["✓", "2.0e−6"]
    assert "1 of 1 pairs" in text


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [(0.0, "0", "0"), (3.14e-6, "3.1e−6", "+3.1e−6"), (-1.25e-8, "−1.2e−8", "−1.2e−8"), (0.0071, "0.00710", "+0.00710"),
     (-0.5, "−0.500", "−0.500"), (1.25, "1.25", "+1.25"), (float("nan"), "nan", "nan"), (float("inf"), "inf", "+inf")],
)  # fmt: skip
def test_small_differences_in_words(value, plain, signed) -> None:
    assert (words.tiny(value), words.signed(value)) == (plain, signed)


def entry(model, target):
    return Entry(model, target, Path(), 32, 32)


def test_the_table_at_the_end_gains_columns_only_where_they_have_rows() -> None:
    big, small = artifact("big", id="big"), artifact("small", id="small")
    rows = [
        row(m, q, v)
        for m, q, v in ((big, "size", 4e6), (small, "size", 1e6), (big, "latency", 0.4), (small, "latency", 0.1))
    ]
    entries = [entry(big, "cpu"), entry(small, "cpu")]
    plain = table(entries, rows).splitlines()
    assert plain[0].split()[-2:] == ["peak", "MB"]
    rows += [row(small, "first_mask_4g", 3.456, target="wasm"), row(small, "parity_max", 2.5e-6, target="wasm"),
             failed_row(big, "hung", target="wasm")]  # fmt: skip
    told = table([*entries, entry(big, "wasm"), entry(small, "wasm")], rows).splitlines()
    assert told[0].endswith("first mask 4G s  max abs")
    assert told[2].split()[-2:] == ["-", "-"]
    assert told[3].split() == ["big", "big", "wasm", "-", "-", "-", "failed", "-", "-", "-", "-", "-"]
    assert told[4].split()[-2:] == ["3.46", "2.5e-06"]


def test_the_table_at_the_end_calls_software_rendering_by_its_name() -> None:
    model = artifact("big", id="big")
    rows = [row(model, "latency", 9.0, target=t, runtime=browser(t)) for t in ("webgl", "wasm")]
    webgl, wasm = table([entry(model, "webgl"), entry(model, "wasm")], rows).splitlines()[1:]
    assert "webgl (software)" in webgl
    assert "software" not in wasm
