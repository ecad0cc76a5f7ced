"""The static demo: photos prepared in JavaScript as in Python, the folder, and its page in real browsers."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import web_fixtures
from report_store import artifact

from compress import cli
from compress.core.errors import MissingExtraError, UsageError
from compress.core.launch import launch
from compress.core.types import ImageSpec, from_json
from compress.core.web import find_browser, find_node, vendored, web_folder
from compress.jobs import demo
from compress.jobs.demo import DRAWN, Exhibit, card, check_drawn, write_demo
from compress.kit.data.classscenes import LABELS
from compress.kit.images import read_rgb
from compress.kit.infer import predict
from compress.tasks import TASKS

SPEC = ImageSpec(height=48, width=48, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def is_absent(find, *arguments):
    try:
        find(*arguments)
    except MissingExtraError:
        return True
    return False


needs_node = pytest.mark.skipif(is_absent(find_node), reason="no Node.js")
needs_packages = pytest.mark.skipif(is_absent(vendored, "@tensorflow/tfjs-core"), reason="npm ci has not run")


def node_tests(file, **environment):
    command = [find_node(), "--test", "--test-reporter=spec", str(web_folder() / "test" / file)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_node
def test_javascript_prepares_photos_and_draws_pictures_as_python_does(tmp_path):
    web_fixtures.write(tmp_path)
    told = node_tests("fixtures.test.js", FIXTURES=str(tmp_path))
    cases = 5 + 2 * len(web_fixtures.PREDICTIONS) + len(TASKS.names())
    assert f"pass {cases}\n" in told and "skipped 0\n" in told


@needs_node
def test_javascript_knows_every_task_that_the_command_lets_in(tmp_path):
    script = (
        f"import {{ pictures }} from '{(web_folder() / 'shared' / 'pictures.js').as_uri()}';"
        "try { pictures('', {}, {}, {}) } catch (error) { console.log(error.message) }"
    )
    done = subprocess.run(
        [find_node(), "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60
    )
    assert set(done.stdout.strip().partition("known: ")[2].split(", ")) == DRAWN == set(TASKS.names())


def exhibit(folder, name="pointwise", **fields):
    options = {"data": ["/home/somebody/photos"]}
    metrics = {"loss": 0.4, "mae": 0.0712, "images": 12.0}
    record = artifact(name, id=name, input=SPEC, metrics=metrics, options=options, **fields)
    return Exhibit(record, web_fixtures.write_model(folder / name), "float32")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A written demo of two models; the second is slow to come from ``served``."""
    folder = tmp_path_factory.mktemp("demo")
    out = folder / "site" / "some" / "where"
    written = write_demo([exhibit(folder), exhibit(folder, "slow")], out)
    return out, written


@needs_packages
class TestFolder:
    def test_has_everything_the_page_names_and_tells_its_size(self, shown):
        out, written = shown
        files = [path for path in out.rglob("*") if path.is_file()]
        assert written.files == len(files) and written.bytes == sum(path.stat().st_size for path in files)
        page = (out / "index.html").read_text()
        for named in ("demo/app.js", "demo/style.css", "demo/result.css", "demo/icon.svg", "LICENSES.txt"):
            assert named in page and (out / named).is_file()
        assert "Content-Security-Policy" in page and "http://localhost" in page and "https://" not in page
        for package, names in demo.RUNTIME.items():
            for name in names:
                copied = out / "vendor" / "@tensorflow" / package / name
                assert copied.read_bytes() == (vendored(f"@tensorflow/{package}") / name).read_bytes()

    def test_page_has_no_inline_script_or_style(self, shown):
        page = (shown[0] / "index.html").read_text()
        assert "<style" not in page and "style=" not in page and " onclick" not in page
        assert page.count("<script") == page.count('src="demo/app.js"></script>') == 1

    def test_modules_import_only_what_was_copied(self, shown):
        for path in [*(shown[0] / "demo").glob("*.js"), *(shown[0] / "shared").glob("*.js")]:
            for line in path.read_text().splitlines():
                if line.startswith(("import ", "} from ")) and " from " in line:
                    assert (path.parent / line.split('"')[1]).is_file(), f"{path.name}: {line}"

    def test_models_travel_with_how_to_read_them_and_nothing_private(self, shown):
        listed = json.loads((shown[0] / "models.json").read_text())
        assert listed["models"] == ["models/pointwise", "models/slow"]
        assert listed["tasks"]["saliency"]["title"] == "Background removal"
        assert (shown[0] / listed["tasks"]["saliency"]["sample"]).is_file()
        told = json.loads((shown[0] / "models" / "pointwise" / "manifest.json").read_text())
        assert from_json(ImageSpec, told["input"]) == SPEC
        assert {metric["name"]: metric["value"] for metric in told["metrics"]} == {"loss": 0.4, "mae": 0.0712}
        assert (
            told["bytes"]
            == sum(path.stat().st_size for path in (shown[0] / "models" / "pointwise").glob("[!m]*"))
            + (shown[0] / "models" / "pointwise" / "model.json").stat().st_size
        )
        assert "somebody" not in json.dumps(told)

    def test_licenses_of_what_is_copied_are_there(self, shown):
        text = (shown[0] / "LICENSES.txt").read_text()
        for wanted in (
            "Apache License",
            "@tensorflow/tfjs-backend-webgpu 4.",
            "seedrandom 3",
            "Permission is hereby granted",
        ):
            assert wanted in text

    def test_replaces_an_earlier_demo_and_nothing_else(self, tmp_path):
        one = exhibit(tmp_path)
        out = tmp_path / "page"
        write_demo([one], out)
        (out / "left over").touch()
        write_demo([one], out)
        assert not (out / "left over").exists() and (out / "index.html").is_file()
        other = tmp_path / "letters"
        other.mkdir()
        (other / "index.html").write_text("mine")
        with pytest.raises(UsageError, match="holds something else"):
            write_demo([one], other)
        assert (other / "index.html").read_text() == "mine"

    def test_is_whole_or_not_there(self, tmp_path, monkeypatch):
        one = exhibit(tmp_path)
        (one.folder / "group1-shard1of1.bin").unlink()
        with pytest.raises(FileNotFoundError):
            write_demo([one], tmp_path / "page")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pointwise"]


def test_card_says_what_sizes_the_browser_model_takes(tmp_path):
    fixed = Exhibit(artifact(input=SPEC), web_fixtures.write_model(tmp_path / "fixed", ("48", "48")), "float16")
    free = Exhibit(artifact(input=SPEC), web_fixtures.write_model(tmp_path / "free"), "float16")
    task = TASKS.get("saliency")
    assert not card(fixed, task)["input"]["dynamic"] and card(free, task)["input"]["dynamic"]


def test_classes_bear_names_where_the_data_is_known(tmp_path):
    task = TASKS.get("segmentation")
    output = ImageSpec(name="classes", channels=len(LABELS), color="classes")
    folder = web_fixtures.write_model(tmp_path / "model")
    for data, wanted in ((["builtin"], list(LABELS)), (["/nowhere"], [])):
        record = artifact(task="segmentation", input=SPEC, output=output, options={"data": data})
        drawing = card(Exhibit(record, folder, "float32"), task)["drawing"]
        assert drawing["labels"] == wanted and drawing["palette"][1] == [128, 0, 0] and drawing["none"] == 255


def test_a_task_the_page_can_not_draw_is_refused():
    with pytest.raises(UsageError, match="'weather'"):
        check_drawn(artifact(task="weather"))


class Handler(http.server.SimpleHTTPRequestHandler):
    """A plain static server; the model "slow" takes its time."""

    def do_GET(self):
        if self.path.endswith("/slow/model.json"):
            time.sleep(3)
        with contextlib.suppress(ConnectionError):  # a cancelled model is not waited for
            super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def served(shown):
    handler = functools.partial(Handler, directory=shown[0].parents[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/some/where/"
    server.shutdown()
    server.server_close()


def pictures_of(path):
    photo = read_rgb(path)
    return TASKS.get("saliency").pictures(photo, predict(web_fixtures.pointwise, SPEC, photo))


@needs_packages
@pytest.mark.parametrize(("kind", "backends"), [("chromium", ["wasm", "webgl"]), ("firefox", ["wasm", "cpu"])])
def test_in_a_browser_a_photo_gives_what_it_gives_in_python(kind, backends, served, tmp_path):
    try:
        _, program = find_browser(kind)
    except MissingExtraError as error:
        pytest.skip(str(error))
    photo, turned, note, damaged = (tmp_path / name for name in ("photo.png", "turned.jpg", "note.jpg", "damaged.png"))
    PIL.Image.fromarray(web_fixtures.photo(200, 150)).save(photo)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    PIL.Image.fromarray(web_fixtures.photo(40, 60)).save(turned, quality=95, subsampling=0, exif=exif)
    note.write_text("not a photo at all")
    damaged.write_bytes(photo.read_bytes()[:300])
    job = dict(url=served, kind=kind, program=program, folder=str(tmp_path), backends=backends,
               photo=str(photo), turned=str(turned), note=str(note), damaged=str(damaged))  # fmt: skip
    try:
        node_tests("page.test.js", DEMO=json.dumps(job))
    finally:
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    wanted = pictures_of(photo)
    for backend in backends:
        mask, cutout = (PIL.Image.open(tmp_path / f"{backend}.{name}.png") for name in ("mask", "cutout"))
        assert (mask.mode, cutout.mode, mask.size) == ("L", "RGBA", (150, 200))
        assert nearly(mask, wanted["mask"]) and nearly(cutout.getchannel("A"), wanted["mask"])
        assert np.array_equal(np.asarray(cutout)[..., :3], np.asarray(wanted["cutout"])[..., :3])
    found, right = PIL.Image.open(tmp_path / "turned.cutout.png"), pictures_of(turned)["cutout"]
    assert found.size == right.size == (40, 60)
    assert np.abs(np.asarray(found, int) - np.asarray(right, int)).mean() < 1  # decoders of JPEG differ by a level


def nearly(found, wanted):
    """Whether 99.9 % of the pixels lie within 2 levels, and the picture is one at all."""
    one, other = np.asarray(found, int), np.asarray(wanted, int)
    return other.std() > 10 and np.mean(np.abs(one - other) <= 2) >= 0.999


def test_the_command_plans_and_refuses(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, ["demo", "nothing", "--store", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 4 and "no artifact 'nothing'" in capsys.readouterr().err
    assert not Path(tmp_path / "out").exists()
