"""The "fake or real?" page: how it is made, and answered in a real browser."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from scipy import stats

from compress import cli
from compress.core.errors import DataError, UsageError
from compress.core.launch import launch
from compress.jobs import turing
from compress.jobs.answers import read_sheet, sum_up
from compress.jobs.turing import Model, Shot, check_task, shots, write_page
from compress.kit.data.sets import Dataset
from compress.tasks import TASKS

MODELS = [Model("aaaa11112222", "first"), Model("bbbb11112222", "second")]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


class Noise(Dataset):
    """Smooth colour photos; every fourth grey, every fifth tiny."""

    def __init__(self, length=40):
        self.length = length

    @property
    def names(self):
        return tuple(map(str, range(self.length)))

    @property
    def fingerprint(self):
        return "noise"

    def original(self, index):
        coarse = np.random.default_rng(index).integers(0, 256, (4, 5, 3), np.uint8)
        if index % 4 == 0:
            coarse[:] = coarse[..., :1]
        size = (50, 40) if index % 5 == 0 else (100, 80)
        photo = np.asarray(PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC))
        return {"image": photo, "target": photo}


def red(photo):
    return PIL.Image.new("RGB", photo.shape[1::-1], "red")


def blue(photo):
    return PIL.Image.new("RGB", photo.shape[1::-1], "blue")


def made(count=12, seed=0, makers=(red, blue), length=40):
    return list(shots(TASKS.get("color"), Noise(length), makers, count=count, seed=seed))


def page(out, **options):
    return write_page(made(**options), MODELS, out, task="color", origin="x")


def facts(out):
    return json.loads(re.search(r"const PAGE = (\{.*\});", (out / "index.html").read_text())[1])


# ---- making the page


@pytest.mark.parametrize(("count", "kinds"), [(12, [6, 3, 3]), (13, [7, 3, 3]), (4, [2, 1, 1]), (10, [5, 3, 2])])
def test_half_is_real_and_models_share_the_rest(count, kinds):
    found = made(count)
    assert [sum(shot.kind == kind for shot in found) for kind in range(3)] == kinds
    for shot in found:
        colour = shot.picture.getpixel((0, 0))
        assert (colour == (255, 0, 0)) == (shot.kind == 1) and (colour == (0, 0, 255)) == (shot.kind == 2)


def test_every_picture_is_another_photo_and_fit_to_be_judged():
    seen = [np.asarray(shot.picture) for shot in made(24, makers=[PIL.Image.fromarray])]
    assert len({picture.tobytes() for picture in seen}) == 24
    assert all(min(picture.shape[:2]) == 80 for picture in seen)
    assert all((picture.max(-1) - picture.min(-1)).max() > 12 for picture in seen)


def test_real_pictures_take_the_steps_of_made_ones():
    """The colour task's real picture is the photo brought to Lab and back: within a level of the photo."""
    for shot in made(8, makers=[red]):
        if shot.kind == 0:
            photos = [Noise().original(i)["image"].astype(int) for i in range(40)]
            near = [p for p in photos if p.shape == np.asarray(shot.picture).shape]
            assert min(np.abs(p - np.asarray(shot.picture)).max() for p in near) <= 1


def test_order_follows_the_seed(tmp_path):
    assert [s.kind for s in made(seed=1)] == [s.kind for s in made(seed=1)]
    assert len({tuple(s.kind for s in made(seed=seed)) for seed in range(6)}) == 6
    first, again = page(tmp_path / "a"), page(tmp_path / "b")
    assert first == again != page(tmp_path / "c", seed=1)
    same = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in same)


def test_files_do_not_betray_which_is_which(tmp_path):
    page(tmp_path / "p")
    told = facts(tmp_path / "p")
    files = sorted(path.name for path in (tmp_path / "p" / "pictures").iterdir())
    assert files == sorted(entry["file"] for entry in told["pictures"])
    assert all(re.fullmatch(r"[0-9a-f]{12}\.jpg", name) for name in files)
    tables = set()
    for name in files:
        with PIL.Image.open(tmp_path / "p" / "pictures" / name) as picture:
            tables.add(str(picture.quantization))
            assert not picture.getexif() and set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert len(tables) == 1  # one encoder setting for both kinds
    kinds = [entry["veil"] ^ int(entry["file"][:2], 16) for entry in told["pictures"]]
    assert kinds == [shot.kind for shot in made()]
    assert kinds != [entry["veil"] for entry in told["pictures"]]


def test_large_pictures_are_shown_at_one_size(tmp_path):
    large = [Shot(kind, PIL.Image.new("RGB", (1500, 900), "green")) for kind in (0, 1)]
    write_page(large, MODELS[:1], tmp_path / "p", task="retouch", origin="x")
    assert {(e["width"], e["height"]) for e in facts(tmp_path / "p")["pictures"]} == {(640, 384)}
    assert facts(tmp_path / "p")["reported"] is None  # S7's figure is of colour alone


def test_an_earlier_page_is_replaced_and_nothing_else(tmp_path):
    page(tmp_path / "p")
    page(tmp_path / "p", count=4)
    assert len(list((tmp_path / "p" / "pictures").iterdir())) == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my page")
    with pytest.raises(UsageError, match="holds something else"):
        page(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "p"]


def test_too_few_photos_or_pictures():
    with pytest.raises(DataError, match="photos can be shown, 12 were wanted"):
        made(length=10)
    with pytest.raises(UsageError, match="too few for 2 models"):
        made(3)


@pytest.mark.parametrize("name", TASKS.names())
def test_only_pictures_that_could_be_photos(name):
    if name in ("color", "retouch"):
        check_task(TASKS.get(name))
    else:
        with pytest.raises(UsageError, match="for a photo"):
            check_task(TASKS.get(name))


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser, tmp_path):
    page(tmp_path / "p")
    context = browser.new_context(viewport={"width": 375, "height": 700}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(8000)
    tab.problems, tab.asked = [], []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and tab.problems.append(message.text))
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(f"file://{tmp_path / 'p' / 'index.html'}")
    yield tab
    assert tab.problems == []
    assert all(url.startswith(("file://", "blob:")) for url in tab.asked)
    context.close()


def ready(tab, number):
    tab.wait_for_function(f"document.querySelector('#which').textContent == 'Picture {number} of 12'"
                          " && !document.querySelector('#fake').disabled")  # fmt: skip


def answer_all(tab, letters):
    tab.keyboard.press("Enter")
    for number, letter in enumerate(letters, 1):
        ready(tab, number)
        tab.keyboard.press({"r": "ArrowRight", "f": "f"}[letter])
    tab.wait_for_selector("#end:not([hidden])")


LETTERS = "rfrrffrfrrrf"


def expected(kind):
    """(taken, shown, low, high) of one kind by scipy."""
    mine = [letter for shot, letter in zip(made(), LETTERS, strict=True) if shot.kind == kind]
    span = stats.binomtest(mine.count("r"), len(mine)).proportion_ci(method="wilson")
    return mine.count("r"), len(mine), span.low, span.high


def test_answered_by_keyboard_the_result_is_scipys(tab):
    answer_all(tab, LETTERS)
    blocks = tab.locator(".tally").all_inner_texts()
    assert len(blocks) == 3
    for text, name, kind in zip(blocks, ("first", "second", "Real photos"), (1, 2, 0), strict=True):
        taken, shown, low, high = expected(kind)
        assert name in text and f"{taken} of {shown}" in text
        numbers = [float(value) for value in re.search(r"interval ([\d.]+) % to ([\d.]+) %", text).groups()]
        np.testing.assert_allclose(numbers, [100 * low, 100 * high], atol=0.051)
    total = expected(1)[0] + expected(2)[0]
    assert tab.locator("#finding").inner_text() == f"You took {total} of 6 made pictures for real"
    assert "57.24 %" in tab.locator("#beside").inner_text()
    assert tab.evaluate("document.activeElement.id") == "finding"  # a screen reader starts there
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375


def test_downloaded_answers_are_what_was_said(tab, tmp_path):
    answer_all(tab, LETTERS)
    with tab.expect_download() as download:
        tab.click("#save")
    download.value.save_as(tmp_path / "answers.json")
    sheet = read_sheet(tmp_path / "answers.json")
    truths = ["real" if shot.kind == 0 else MODELS[shot.kind - 1].id for shot in made()]
    assert sheet.answers == tuple(zip(truths, [{"r": "real", "f": "fake"}[c] for c in LETTERS], strict=True))
    assert sheet.models == tuple(MODELS) and sheet.finished and len(sheet.person) == 16
    for tally, kind in zip(sum_up([sheet]), (1, 2, 0), strict=True):
        assert (tally.taken, tally.wilson.n) == expected(kind)[:2]


def test_a_reload_goes_on_and_a_step_back_takes_back(tab):
    tab.keyboard.press("Enter")
    ready(tab, 1)
    tab.keyboard.press("r")
    ready(tab, 2)
    tab.reload()
    ready(tab, 2)
    tab.keyboard.press("Backspace")
    ready(tab, 1)
    tab.click("#fake")
    ready(tab, 2)
    assert json.loads(tab.evaluate("localStorage.getItem(KEY)"))["answers"] == "f"
    tab.keyboard.press("Control+f")  # the browser's own
    ready(tab, 2)
    assert tab.evaluate("document.activeElement.id") == "fake"  # the focus stays where the answer was given


def test_a_link_shows_the_result_to_others(tab, browser):
    answer_all(tab, LETTERS)
    address = tab.url
    assert address.endswith("." + LETTERS)
    theirs = browser.new_context().new_page()
    theirs.goto(address)
    assert theirs.locator("#whose").inner_text().lower() == "answers from a link"
    assert theirs.locator(".tally").all_inner_texts() == tab.locator(".tally").all_inner_texts()
    assert not theirs.locator("#save").is_visible()
    theirs.goto(address.partition("#")[0] + "#r=nonsense")
    theirs.reload()
    assert theirs.locator("#start").is_visible()
    theirs.context.close()


def test_a_screen_reader_is_told(tab):
    tab.keyboard.press("Enter")
    ready(tab, 1)
    assert tab.evaluate("document.activeElement.id") == "which"
    told = tab.locator("main").aria_snapshot()
    assert 'button "Fake"' in told and 'button "Real"' in told and "Picture 1 of 12: fake or real?" in told
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # the first button
    ready(tab, 2)
    assert json.loads(tab.evaluate("localStorage.getItem(KEY)"))["answers"] == "f"


# ---- the command


def test_command_writes_a_page_of_a_trained_model(tmp_path, capsys):
    data = tmp_path / "d"
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (6, 7, 9, 11))):
        (data / split).mkdir(parents=True)
        for number in numbers:
            PIL.Image.fromarray(Noise().original(number)["image"]).save(data / split / f"{number}.png")
    line = ["--store", tmp_path / "store", "--data", data]
    tiny = ["--steps", 1, "--size", 32, "--batch", 2, "--width", 4, "--workers", 0, "--precision", 32]
    assert run("train", "--teacher", "colorizer", *tiny, *line) == 0
    capsys.readouterr()
    assert run("turing", *line, "--count", 4, "--out", tmp_path / "p", "--dry-run") == 0
    assert "4 of 4 pictures, half made by colorizer" in capsys.readouterr().out and not (tmp_path / "p").exists()
    assert run("turing", *line, "--count", 4, "--out", tmp_path / "p", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == len(list((tmp_path / "p" / "pictures").iterdir())) == 4
    assert facts(tmp_path / "p")["models"][0]["name"] == "colorizer"
    assert turing.MARK in (tmp_path / "p" / "index.html").read_text()
    assert run("turing", *line, "--count", 6, "--out", tmp_path / "p") == 2
    assert "4 photos can be shown, 6 were wanted" in capsys.readouterr().err
    assert told["pictures"] == len(list((tmp_path / "p" / "pictures").iterdir()))  # the page of before still stands


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("turing --model x --collect a.json", 2, "exclude each other"),
        ("turing --count 0", 2, "--count is 0"),
        ("turing --model nothing", 4, "no artifact 'nothing'"),
        ("turing", 4, "no artifact of task"),
        ("turing --collect nowhere.json", 2, "no answers at"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, line, code, words):
    monkeypatch.chdir(tmp_path)
    assert run(*line.split()) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
