import base64
import html
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from compress.core.errors import UsageError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec, Machine, Row
from reports import words
from reports.commands import Build, build
from reports.frame import newest, pareto, tidy, wide
from reports.intervals import relative_change, speedup
from reports.lineage import command_of, teacher_of
from reports.render import write_report

IMAGES, REPEATS = 24, 30
DATA = "d4c1a2b39e8f7061"
MACHINE = Machine("Test CPU 9000", ("avx2", "avx512_vnni"), 2, 2, 16_000_000_000, "", "Linux 6 x86_64", "3.11.9",
                  {"image-compress": "0.1.0", "onnxruntime": "1.31.0", "torch": "2.13.0"})  # fmt: skip
# name, network, method, dtype, format, bytes, loss, seconds on cpu, options
T7 = ("u2net_student-T7", "u2net_student", "distill", "float32", "safetensors", 9_720_000, 0.352, 0.121)
T2 = ("u2net_student-T2", "u2net_student", "distill", "float32", "safetensors", 9_720_000, 0.327, 0.120)
SMALL = ("u2net_small", "u2net_small", "train", "float32", "safetensors", 9_830_000, 0.338, 0.133)
MODELS = (
    ("u2net_big", "u2net_big", "train", "float32", "safetensors", 157_200_000, 0.31, 0.412, {"teacher": "u2net_big"}),
    (*T7, {"temperature": 7.0}),
    (*SMALL, {"teacher": "u2net_small"}),
    ("u2net_big-int8", "u2net_big", "quantize", "int8", "onnx", 41_300_000, 0.3105, 0.158, {"dtype": "int8"}),
    (*T2, {"temperature": 2.0}),
    ("u2net_student-T2-int8", "u2net_student", "quantize", "int8", "onnx", 2_610_000, 0.333, 0.049, {"dtype": "int8"}),
)
ORDER = ["u2net_big", "u2net_small", "u2net_big-int8", "u2net_student-T2", "u2net_student-T7", "u2net_student-T2-int8"]
PARENTS = {"u2net_big-int8": "u2net_big", "u2net_student-T2-int8": "u2net_student-T2"}


def artifact(name="model", **fields):
    base = dict(
        id="", name=name, kind="student", task="saliency", network="u2net_small", network_options={}, format="onnx",
        dtype="float32", method="train", options={}, parent="", parent_sha256="", teacher="", key=name,
        input=ImageSpec(), output=ImageSpec(name="mask", channels=1, color="mask"), files=(), parameters=1000,
        macs=9000, data="aaaa1111bbbb2222", metrics={"loss": 0.3}, machine=MACHINE, seed=0, versions={},
        commit="0123456789ab", created="2026-01-02T03:04:05.000", seconds=61.5,
    )  # fmt: skip
    return Artifact(**(base | fields))


def publish(store, record, size):
    with store.draft() as folder:
        with (folder / "weights.bin").open("wb") as stream:
            stream.truncate(size)
        return store.publish(folder, record)


def row(model, quantity, value, *, target="cpu", unit="1", better="lower", run="run-1", repeats=(), **details):
    details = {"size": 320, "width": 320, "batch": 1, "threads": 2, "runtime": {"providers": ["CPU"]}} | details
    samples = tuple(map(float, repeats))
    when = "2026-01-03T10:11:12.000"
    return Row(model.id, target, quantity, float(value), unit, better, run, MACHINE, samples, details, when)


def losses_around(mean, seed):
    hard = np.random.default_rng(7).gamma(2.0, 0.5, IMAGES)  # the same images are hard for every model
    losses = hard * (1 + 0.05 * np.random.default_rng(seed).standard_normal(IMAGES))
    return losses * mean / losses.mean()


def score_rows(model, loss, seed, *, dead=0, data=DATA, **place):
    scored = {"data": data, "split": "test", "sources": ["photos of mine"], **place}
    images = losses_around(loss, seed)
    return [
        row(model, "loss", images.mean(), repeats=images, **scored),
        row(model, "mae", loss / 5, **scored),
        row(model, "maxf", 1 - loss / 2, better="higher", **scored),
        row(model, "smeasure", 1 - loss / 3, better="higher", **scored),
        row(model, "dead_masks", dead, unit="count", **scored),
        row(model, "images", IMAGES, unit="count", better="none", **scored),
    ]


def speed_rows(model, seconds, seed, **place):
    samples = seconds * (1 + 0.06 * np.random.default_rng(seed).gamma(1.0, 1.0, REPEATS))
    return [
        row(model, "size", model.bytes, unit="B", **place),
        row(model, "parameters", model.parameters, **place),
        row(model, "macs", model.macs, **place),
        row(model, "load", seconds / 2, unit="s", **place),
        row(model, "first", seconds * 1.8, unit="s", **place),
        row(model, "latency", np.median(samples), unit="s", repeats=samples, **place),
        row(model, "throughput", len(samples) / samples.sum(), unit="1/s", better="higher", **place),
        row(model, "peak_memory", 90e6 + 2.2 * model.bytes, unit="B", **place),
    ]


def fill(store, scale=1000):
    """Six models as the thesis has them, and what a harness would have measured of them; sizes are divided by scale."""
    made = {}
    for number, (name, network, method, dtype, format_, size, *_, options) in enumerate(MODELS):
        made[name] = publish(
            store,
            artifact(
                name, network=network, method=method, dtype=dtype, format=format_,
                parameters=size // (1 if dtype == "int8" else 4), macs=size * 240,
                kind="teacher" if network == "u2net_big" else "student",
                options={"data": ["photos"], "seed": 0, "steps": 400, "epochs": 3, "augment": False} | options,
                created=f"2026-01-02T03:0{number}:00.000",
                notes={"parity": {"max_abs": 1.2e-6}} if method == "quantize" else {},
                parent=made[PARENTS[name]].id if name in PARENTS else "",
                teacher=made["u2net_big"].id if method == "distill" else "",
            ),
            size // scale,
        )  # fmt: skip
    rows = []
    for seed, (name, *_, loss, seconds, _) in enumerate(MODELS):
        rows += speed_rows(made[name], seconds, seed) + score_rows(
            made[name], loss, seed, dead=int(name.endswith("T7"))
        )
        if made[name].format == "safetensors":
            there = {"target": "torch", "run": "run-2", "runtime": {"device": "cpu"}}
            rows += speed_rows(made[name], 1.7 * seconds, seed + 50, **there) + score_rows(
                made[name], loss, seed, **there
            )
    store.add_rows(rows)
    for name, record in made.items():
        draw_pictures(store, record.id, blur=ORDER.index(name))
    return made


def draw_pictures(store, who, blur, count=3, side=(96, 72)):
    truth = store.pictures(DATA, "truth")
    mine = store.pictures(DATA, who)
    for folder in (truth, mine):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo, mask = scene(number, side)
        photo.save(truth / f"{number:02d}.photo.png")
        for folder, alpha in ((truth, mask), (mine, mask.resize([n // (1 + blur) for n in side]).resize(side))):
            cutout = photo.copy()
            cutout.putalpha(alpha)
            alpha.save(folder / f"{number:02d}.mask.png")
            cutout.save(folder / f"{number:02d}.cutout.png")


def scene(number, side):
    w, h = side
    sky = np.linspace((90, 140, 200), (225, 205, 170), h, dtype=np.float64)
    photo = Image.fromarray(np.repeat(sky[:, None], w, axis=1).astype(np.uint8), "RGB")
    mask = Image.new("L", side, 0)
    box = (w * (0.2 + 0.05 * number), h * 0.25, w * (0.6 + 0.05 * number), h * 0.85)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    ImageDraw.Draw(photo).ellipse(box, fill=[(190, 60, 50), (50, 120, 70), (230, 190, 40)][number % 3])
    return photo, mask


class Reader(html.parser.HTMLParser):
    """The page as a person sees it: tables as lists of cells, and everything an element refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.tags, self.images = [], [], [], []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [(tag, found[name]) for name in ("src", "srcset", "href") if name in found]
        self.images += [found] if tag == "img" else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([])
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open and data.strip():
            self.tables[-1][-1][-1].append(data.strip())

    def lines(self):
        """The comparison: name -> the texts of each of its cells, the value first."""
        table = self.tables[0]
        heads = ["".join(cell[:1]) for cell in table[1]]
        assert heads[:3] == ["Model", "Size", "Loss"], heads
        # names hold breaking points, so their pieces are joined: all but what the second and third note say
        return {row[0][0]: row for row in ([_joined(row[0]), *row[1:]] for row in table[2:])}


def _joined(cell):
    end = next(i for i, text in enumerate(cell) if text in ("rejected",) or " " in text)
    return ["".join(cell[:end]), *cell[end:]]


def text_of(page):
    return html.unescape(re.sub("<[^>]+>", "", page))


def report(store, out, **options):
    written = write_report(store, store.artifacts(), store.rows(), out, **({"title": "Report"} | options))
    return written, written.html.read_text(encoding="utf-8")


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
    for row, cells in zip(table, Reader(page).lines().values(), strict=True):
        assert [text.replace(" (!)", "") for text in row[1:]] == [cell[0] for cell in cells[1:]]


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
    _, _, written, page = full
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


def test_pareto_front_agrees_with_brute_force() -> None:
    random = np.random.default_rng(3)
    for _ in range(40):
        frame = pd.DataFrame(random.integers(0, 8, (12, 2)).astype(float), columns=["x", "y"])
        frame.loc[0, "y"] = np.nan
        points = frame.dropna().to_numpy()
        kept = [p for p in points if not any((q <= p).all() and (q < p).any() for q in points)]
        assert sorted(map(tuple, pareto(frame, "x", "y").to_numpy())) == sorted(map(tuple, kept))
    assert pareto(frame, "x", "absent").empty


def test_paired_interval_narrows_by_pairing_and_covers_the_truth() -> None:
    teacher, model = losses_around(0.31, 1), losses_around(0.31, 2) * 1.1
    paired = relative_change(teacher, model)
    assert paired.low < 0.1 < paired.high
    assert paired.value == pytest.approx(0.1)
    shuffled = relative_change(teacher, np.random.default_rng(0).permutation(model))
    assert shuffled.value == pytest.approx(paired.value)
    assert shuffled.high - shuffled.low > 3 * (paired.high - paired.low)
    same = relative_change(teacher, teacher)
    assert (same.low, same.value, same.high) == pytest.approx((0, 0, 0))


def test_paired_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(11), 0
    for _ in range(60):
        teacher = random.gamma(4.0, 0.1, 60)
        found = relative_change(teacher, teacher * (1.05 + 0.1 * random.standard_normal(60)))
        held += found.low <= 0.05 <= found.high
    assert held >= 51  # of 60; a 95 % interval holds 51 or more all but one time in 2000


def test_few_images_or_repeats_give_no_interval() -> None:
    assert relative_change([1.0] * 9, [2.0] * 9).low is None
    assert speedup([2.0] * 4, [1.0] * 4).low is None
    assert speedup([2.0] * 4, [1.0] * 4).value == 2.0
    exact = speedup([2.0] * 5, [1.0] * 5)
    assert (exact.low, exact.high) == (2.0, 2.0)


def two(store, **fields):
    teacher = publish(store, artifact("big", kind="teacher", created="2026-01-01T00:00:00"), 4000)
    model = publish(store, artifact("small", parent=teacher.id, method="quantize", dtype="int8", **fields), 1000)
    return teacher, model


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


def test_newest_row_wins_and_wide_prefers_the_first_target(tmp_path) -> None:
    store = Store(tmp_path)
    teacher, model = two(store)
    rows = [row(model, "size", 1, unit="B"), row(model, "size", 2, unit="B"), row(model, "size", 3, target="torch"),
            row(model, "latency", 5, unit="s"), row(teacher, "size", 9, target="torch")]  # fmt: skip
    frame = tidy([teacher, model], rows)
    assert list(newest(frame)["value"]) == [2, 3, 5, 9]
    table = wide(frame, ["cpu", "torch"])
    assert table.loc[model.id, "size"] == 2
    assert table.loc[model.id, "latency@cpu"] == 5
    assert table.loc[teacher.id, "size"] == 9


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
