"""The report: its page, its Markdown and CSV, its command."""

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_store import DATA, ORDER, Reader, artifact, fill, publish, report, row, score_rows, speed_rows, text_of, two

from compress.core.errors import UsageError
from compress.core.store import Store
from reports import words
from reports.commands import Build, build
from reports.lineage import command_of, teacher_of


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A whole store, its artifacts by name, the files of its report, the page."""
    root = tmp_path_factory.mktemp("store")
    made = fill(Store(root))
    return Store(root), made, *report(Store(root), root / "report")


def value(store, model, quantity, target="cpu"):
    rows = [json.loads(line) for line in (store.root / "rows.jsonl").read_text().splitlines()]
    return [r for r in rows if (r["artifact"], r["quantity"], r["target"]) == (model.id, quantity, target)][-1]


def test_the_page_shows_the_numbers_of_the_store_in_the_order_of_the_thesis(full) -> None:
    store, made, _, page = full
    lines = Reader(page).lines()
    assert list(lines) == ORDER
    for name, cells in lines.items():
        size, loss = value(store, made[name], "size")["value"], value(store, made[name], "loss")["value"]
        assert float(cells[1][0]) == pytest.approx(size / 1e6, rel=5e-3)
        assert float(cells[2][0]) == pytest.approx(loss, rel=5e-4)
        assert float(cells[5][0]) == pytest.approx(value(store, made[name], "mae")["value"], rel=5e-4)
        assert float(cells[9][0]) == pytest.approx(1e3 * value(store, made[name], "latency")["value"], rel=5e-3)


def test_ratios_are_the_teachers_over_the_models(full) -> None:
    store, made, _, page = full
    teacher = made["u2net_big"]
    lines = Reader(page).lines()
    assert len(lines["u2net_big"][1]) == 1  # a teacher has no ratio to itself
    for name in ORDER[1:]:
        size, loss, latency = (value(store, teacher, q)["value"] / value(store, made[name], q)["value"]
                               for q in ("size", "loss", "latency"))  # fmt: skip
        assert lines[name][1][1] == f"{words.three(size)}× smaller"
        assert float(lines[name][2][1].replace("−", "-").rstrip(" %")) == pytest.approx(100 / loss - 100, abs=0.051)
        assert lines[name][9][1] == f"{words.three(latency)}× faster"


def test_the_thesis_has_labelled_columns_of_its_own(full) -> None:
    _, _, written, page = full
    reader = Reader(page)
    assert [cell for cell in reader.tables[0][0] if cell] == [
        ["measured here"],
        ["thesis (its own data)"],
        ["measured here"],
    ]
    printed = [(line[3][0], line[4][0]) for line in reader.lines().values()]
    assert [size for size, _ in printed] == ["157", "9.8", "41.4", "9.7", "9.7", "–"]
    assert [loss for _, loss in printed] == [".009145", ".011567", ".009451", ".01676", ".01789", "–"]
    assert "thesis (its own data): Loss" in written.markdown.read_text(encoding="utf-8")
    assert not any("0.009" in cell or ".0094" in cell for cell in written.csv.read_text().split(","))


def test_markdown_says_what_the_page_says(full) -> None:
    _, _, written, page = full
    rows = [
        line.split(" | ") for line in written.markdown.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    table = [
        [cell.strip("| ").replace("\\", "").replace("**", "").split("<br>")[0] for cell in row] for row in rows[1:7]
    ]
    assert [row[0] for row in table] == ORDER
    for told, cells in zip(table, Reader(page).lines().values(), strict=True):
        assert [text.replace(" (!)", "") for text in told[1:]] == [cell[0] for cell in cells[1:]]


def test_csv_holds_every_newest_row_in_si_units(full) -> None:
    store, _, written, _ = full
    table = pd.read_csv(written.csv, dtype={"unit": str}, float_precision="round_trip")
    measured = table[table["source"] == "measured"]
    rows = store.rows()
    assert len(measured) == len(rows)  # each was measured once
    keys = ["artifact", "target", "quantity"]
    found = {tuple(row[:3]): tuple(row[3:]) for row in measured[[*keys, "value", "unit"]].itertuples(index=False)}
    assert found == {(r.artifact, r.target, r.quantity): (r.value, r.unit) for r in rows}
    latency = measured[measured["quantity"] == "latency"].iloc[0]
    samples = next(r.repeats for r in rows if (r.artifact, r.quantity) == (latency["artifact"], "latency"))
    assert [latency["p50"], latency["p90"], latency["p99"]] == pytest.approx(np.quantile(samples, [0.5, 0.9, 0.99]))
    change = table[(table["quantity"] == "loss_change") & (table["name"] == "u2net_small")].iloc[0]
    assert change["low"] < change["value"] < change["high"]
    assert change["value"] == pytest.approx(0.338 / 0.31 - 1)


def test_the_page_is_self_contained_and_small(full) -> None:
    _, _, written, page = full
    reader = Reader(page)
    assert {tag for tag in reader.tags if tag in ("script", "link", "iframe")} == set()
    assert reader.links
    assert all(address.startswith(("data:image/", "#")) for _, address in reader.links)
    assert "url(" not in page
    assert "@import" not in page
    assert written.html.stat().st_size < 5_000_000
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {address[1:] for tag, address in reader.links if tag == "a"} <= ids


def test_every_picture_has_words_and_is_at_most_a_thumbnail(full) -> None:
    _, made, written, page = full
    images = Reader(page).images
    assert all(image["alt"] for image in images)
    shots = [image for image in images if image["src"].startswith("data:image/jpeg")]
    assert len(shots) == 3 * (1 + 2 * (1 + len(ORDER)))  # 3 photos; mask and cut-out of the truth and of every model
    for shot in shots:
        picture = Image.open(io.BytesIO(base64.b64decode(shot["src"].partition(",")[2])))
        assert max(picture.size) <= 200
        assert (str(picture.width), str(picture.height)) == (shot["width"], shot["height"])
    assert {path.name for path in written.png} == {
        "size_loss.png",
        "latency_loss.png",
        "latency_loss-torch.png",
        "strip.png",
        f"temperature-u2net-student-{made['u2net_student-T7'].id}.png",
    }
    for path in written.png:
        with Image.open(path) as picture:
            assert picture.convert("L").getextrema() != (255, 255)


def test_the_headline_claims_what_the_intervals_carry(full) -> None:
    _, _, _, page = full
    headline = re.search("<h1>(.*?)</h1>", page)[1]
    assert headline.startswith("u2net_big-int8 is 3.81× smaller and 2.")
    assert "no measurable change in loss" in headline
    remark = re.search("<li>(Smallest: .*?)</li>", page)[1]
    assert "u2net_student-T2-int8 is 60.2× smaller" in remark
    assert "at +7.4 % loss (95 % interval +" in remark
    assert "1 dead mask in 24 images" in page


def test_the_same_store_gives_the_same_page(full, tmp_path) -> None:
    store, _, written, page = full
    assert report(store, tmp_path)[1] == page
    for path in written.png:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_how_it_was_made_names_machine_data_and_commands(full) -> None:
    _, made, _, page = full
    parent = made["u2net_big"].id
    for part in (
        DATA,
        "aaaa1111bbbb2222",
        "Test CPU 9000",
        "onnxruntime 1.31.0",
        "0123456789ab",
        "max_abs 1.2e-06",
        f"compress quantize --data photos --seed 0 --steps 400 --no-augment --dtype int8 --model {parent}",
        f"benchmarks run --target cpu --model {parent} ",
        " --size 320 --batch 1 --threads 2 --repeats 30 --split test --data 'photos of mine'",
    ):
        assert part in text_of(page), part


def test_commands_leave_out_what_is_unset_and_use_real_flags() -> None:
    options = {"temperature": 2.0, "teacher": "u2net_big", "steps": 5, "epochs": 1, "size": None, "data": ["a b", "c"],
               "augment": True, "name": ""}  # fmt: skip
    made = artifact("s", method="distill", options=options, teacher="abc123")
    assert command_of(made) == "compress distill --T 2 --teacher abc123 --steps 5 --data 'a b' --data c --augment"
    assert command_of(artifact("f", method="import", options={"file": "x.onnx"})) == "compress import x.onnx"


def test_latencies_of_different_runs_are_not_compared(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows(speed_rows(teacher, 0.4, 0, run="a") + speed_rows(model, 0.1, 1, run="b"))
    cells = Reader(report(store, tmp_path / "out")[1]).lines()["small"]
    assert cells[-1][1:] == ["no run with the teacher"]
    assert "faster" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8").split("How to read")[0]


def test_the_newest_run_with_both_gives_the_ratio(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    for run, seconds in (("old", 0.2), ("both", 0.1)):
        store.add_rows([*speed_rows(teacher, 0.4, 0, run=run), *speed_rows(model, seconds, 0, run=run)])
    store.add_rows(speed_rows(model, 0.05, 0, run="alone"))
    cells = Reader(report(store, tmp_path / "out")[1]).lines()["small"]
    assert (cells[-1][1], cells[-1][3]) == ("4.00× faster", "in run both")
    assert float(cells[-1][0]) == pytest.approx(1e3 * 0.05 * 1.04, rel=0.03)  # the newest latency all the same


def test_other_machines_and_settings_stand_apart(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows(speed_rows(teacher, 0.4, 0, threads=1) + speed_rows(model, 0.1, 0, threads=2))
    page = report(store, tmp_path / "out")[1]
    assert "1 thread" in page
    assert "2 threads" in page
    assert "× faster" not in page


def test_what_was_not_measured_says_so(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    store.add_rows([*score_rows(teacher, 0.3, 0), row(model, "size", 1000, unit="B")])
    page = report(store, tmp_path / "out")[1]
    cells = Reader(page).lines()["small"]
    assert cells[2] == ["not measured"]
    assert "4.00× smaller" in cells[1]


def test_rejected_models_show_and_win_nothing(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store, notes={"rejected": "loss rose by 40 %"})
    store.add_rows(score_rows(teacher, 0.3, 0) + score_rows(model, 0.2, 1))
    page = report(store, tmp_path / "out")[1]
    assert "small was rejected: loss rose by 40 %" in page
    assert 'class="best' not in page
    assert "small is" not in re.search("<h1>(.*?)</h1>", page)[1]


def test_hostile_names_stay_text(tmp_path) -> None:
    store = Store(tmp_path)
    evil = "<script>alert(1)</script>|`x`$y$"
    teacher = publish(store, artifact(evil, kind="teacher", options={"name": "$(rm -rf /)"}), 4000)
    store.add_rows(score_rows(teacher, 0.3, 0) + speed_rows(teacher, 0.1, 0))
    written, page = report(store, tmp_path / "out", title="<b>T</b>")
    reader = Reader(page)
    assert not {"script", "b"} & set(reader.tags)
    assert "&lt;script&gt;" in page
    markdown = written.markdown.read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|" in markdown
    assert "compress train --name '$(rm -rf /)'" in text_of(page)


def test_tasks_and_data_sets_get_places_of_their_own(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    color = publish(store, artifact("painter", kind="teacher", task="color"), 700)
    store.add_rows(score_rows(teacher, 0.3, 0) + score_rows(model, 0.4, 1))
    store.add_rows(score_rows(teacher, 0.5, 0, data="ffff") + score_rows(model, 0.6, 1, data="ffff"))
    store.add_rows(score_rows(color, 0.01, 0, data="eeee"))
    written, page = report(store, tmp_path / "out")
    assert len(Reader(page).tables) == 3
    assert (
        page.index("data ffff") < page.index("data d4c1") < page.index("data eeee")
    )  # newest first, more models first
    assert "color: size and loss" in page
    assert len({path.name for path in written.png}) == len(written.png) == 3
    table = pd.read_csv(written.csv)
    assert len(table[table["source"] == "measured"]) == len(store.rows())
    changes = table[table["quantity"] == "loss_change"].set_index("data")["value"]
    assert changes.to_dict() == pytest.approx({DATA: 1 / 3, "ffff": 0.2})


def test_the_teacher_is_what_others_come_from(full) -> None:
    _, made, *_ = full
    alone = artifact("later", id="x1", kind="teacher", created="2027-01-01")
    assert teacher_of([*made.values(), alone], set()).name == "u2net_big"
    foreign = artifact("net", id="f1", kind="foreign")
    child = artifact("net-int8", id="f2", kind="foreign", parent="f1", method="quantize")
    assert teacher_of([foreign, child], set()).id == "f1"


def test_build_prints_the_page_last_and_json_names_every_file(tmp_path, capsys) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    other = publish(store, artifact("other", parent=teacher.id), 500)
    store.add_rows([r for m in (teacher, model, other) for r in score_rows(m, 0.3, 0)])
    build(options=Build(store=tmp_path, model=("small",)))
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report" / "index.html")
    assert set(pd.read_csv(tmp_path / "report" / "report.csv")["artifact"]) == {teacher.id, model.id}
    build(options=Build(store=tmp_path, out=tmp_path / "all", json=True))
    told = json.loads(capsys.readouterr().out)
    assert sorted(told) == ["csv", "html", "markdown", "png"]
    assert all(Path(p).is_file() for p in (told["csv"], told["html"], told["markdown"], *told["png"]))
    assert len(pd.read_csv(told["csv"])["artifact"].unique()) == 3


def test_dry_run_writes_nothing(full, tmp_path, capsys) -> None:
    build(options=Build(store=full[0].root, out=tmp_path / "out", dry_run=True))
    assert "6 artifacts" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_without_rows_it_says_what_to_run(tmp_path) -> None:
    with pytest.raises(UsageError, match="compress train --teacher u2net_big"):
        build(options=Build(store=tmp_path))
    two(Store(tmp_path))
    with pytest.raises(UsageError, match="benchmarks run --target cpu"):
        build(options=Build(store=tmp_path))


def cli(*arguments, root):
    call = "from reports.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", call, *arguments], cwd=root, capture_output=True, text=True, timeout=60
    )


def test_the_command_line_ends_with_one_line_and_a_code(tmp_path) -> None:
    done = cli("build", "--store", str(tmp_path / "none"), root=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no artifacts in ")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy_and_no_framework_ever_loads(tmp_path) -> None:
    teacher, model = two(Store(tmp_path))
    Store(tmp_path).add_rows(score_rows(teacher, 0.3, 0) + speed_rows(model, 0.1, 1))
    call = (
        "import sys; from reports.cli import app; app(['build', '--help'], result_action='return_value');"
        "heavy = {'pandas', 'matplotlib', 'jinja2', 'numpy', 'torch'} & set(sys.modules); assert not heavy, heavy;"
        "from reports.commands import Build, build; from pathlib import Path;"
        f"build(options=Build(store=Path({str(tmp_path)!r})));"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorflow'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--title" in done.stdout


def test_what_needs_no_network_is_the_last_line_of_its_data(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    beside = {"name": "constant mask", "metrics": {"loss": 0.567891, "mae": 0.3, "dead_masks": 24.0}}
    rows = [r for m in (teacher, model) for r in score_rows(m, 0.3, 1)]
    told = [replace(r, details={**r.details, "baseline": beside}) if r.quantity == "loss" else r for r in rows]
    store.add_rows([*speed_rows(teacher, 0.2, 1), *speed_rows(model, 0.1, 2), *told])
    written, page = report(store, tmp_path / "r")
    text = text_of(page)
    assert "needs no network" in text
    assert "0.5679" in text
    assert text.index("0.5679") > text.index("small")
    assert "24.0" not in text
    assert "constant mask" in written.markdown.read_text(encoding="utf-8")
    plain = Store(tmp_path / "plain")
    teacher, model = two(plain)
    plain.add_rows([*speed_rows(teacher, 0.2, 1), *score_rows(teacher, 0.3, 1)])
    assert "needs no network" not in report(plain, tmp_path / "p")[1]
