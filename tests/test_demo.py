"""The static demo: photos prepared in JavaScript as in Python, and the folder with its page."""

import json
import subprocess

import pytest
import web_fixtures
from demo_site import node_tests
from report_store import artifact
from web_fixtures import SPEC, exhibit

from compress.core.errors import MissingExtraError, UsageError
from compress.core.types import ImageSpec, from_json
from compress.core.web import find_node, vendored, web_folder
from compress.jobs.demo import DRAWN, Exhibit, card, check_drawn, write_demo
from compress.jobs.demo_runtime import runtime_files
from compress.kit.data.classscenes import LABELS
from compress.tasks import TASKS
from reports import words


def is_absent(find, *arguments):
    try:
        find(*arguments)
    except MissingExtraError:
        return True
    return False


needs_node = pytest.mark.skipif(is_absent(find_node), reason="no Node.js")
needs_packages = pytest.mark.skipif(is_absent(vendored, "@tensorflow/tfjs-core"), reason="npm ci has not run")


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
    assert set(done.stdout.strip().partition("known: ")[2].split(", ")) == set(DRAWN) == set(TASKS.names())


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A written demo of two models."""
    folder = tmp_path_factory.mktemp("demo")
    return folder / "site", write_demo([exhibit(folder), exhibit(folder, "other")], folder / "site")


@needs_packages
class TestFolder:
    def test_has_everything_the_page_names_and_tells_its_size(self, shown):
        out, written = shown
        files = [path for path in out.rglob("*") if path.is_file()]
        assert written.files == len(files) and written.bytes == sum(path.stat().st_size for path in files)
        page = (out / "index.html").read_text()
        for named in (
            "demo/app.js",
            "demo/style.css",
            "demo/facts.css",
            "demo/result.css",
            "demo/icon.svg",
            "LICENSES.txt",
        ):
            assert named in page and (out / named).is_file()
        assert "Content-Security-Policy" in page and "http://localhost" in page and "https://" not in page
        for package, names in runtime_files().items():
            assert names
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
        assert listed["models"] == ["models/pointwise", "models/other"]
        assert listed["tasks"]["saliency"]["title"] == "Background removal"
        assert (shown[0] / listed["tasks"]["saliency"]["sample"]).is_file()
        told = json.loads((shown[0] / "models" / "pointwise" / "manifest.json").read_text())
        assert from_json(ImageSpec, told["input"]) == SPEC
        scores = {metric["name"]: metric for metric in told["metrics"]}
        assert {name: score["value"] for name, score in scores.items()} == {"loss": 0.4, "mae": 0.0712, "maxf": 0.9}
        assert (scores["maxf"]["title"], scores["maxf"]["help"]) == (words.TITLES["maxf"], words.MEANINGS["maxf"])
        assert told["images"] == 12
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
            "XNNPACK",
            "pthreadpool",
            "Emscripten",
            "musl",
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

    def test_a_failed_one_leaves_the_one_before(self, tmp_path):
        one = exhibit(tmp_path)
        write_demo([one], tmp_path / "page")
        before = {path: path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file()}
        (one.folder / "group1-shard1of1.bin").unlink()
        with pytest.raises(FileNotFoundError):
            write_demo([one], tmp_path / "page")
        assert {path: path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "pointwise"]


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
