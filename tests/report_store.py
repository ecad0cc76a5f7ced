"""A store as a harness would have left it, and how its report reads: for the tests of reports."""

import html
import html.parser
import re

import numpy as np
from PIL import Image, ImageDraw

from compress.core.types import Artifact, ImageSpec, Machine, Row
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


def two(store, **fields):
    teacher = publish(store, artifact("big", kind="teacher", created="2026-01-01T00:00:00"), 4000)
    model = publish(store, artifact("small", parent=teacher.id, method="quantize", dtype="int8", **fields), 1000)
    return teacher, model
