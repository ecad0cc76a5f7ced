import numpy as np
import pytest
from browsers import (
    BIAS,
    KERNEL,
    Watch,
    make_models,
    needs_chromium,
    needs_firefox,
    needs_screen,
    start,
    tfjs_identity,
)

from benchmarks.browser.driver import Driver
from benchmarks.browser.options import BrowserOptions
from benchmarks.browser.server import Server
from compress.core.web import vendored, web_folder

IMAGE = np.random.default_rng(2).random((2, 3, 9, 14), dtype=np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def expected(image=IMAGE):
    """The convolution as slow loops over its taps, in float64."""
    height, width = image.shape[2:]
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros((image.shape[0], 4, height, width))
    for row in range(3):
        for column in range(3):
            part = padded[:, :, row : row + height, column : column + width]
            for channel in range(4):
                total[:, channel] += np.tensordot(part, KERNEL[row, column, :, channel], (1, 0))
    return np.maximum(total + BIAS[:, None, None], 0)


CHROMIUM = [
    ("tfjs", "wasm", ""),
    ("tfjs", "webgl", "renderer"),
    pytest.param("tfjs", "webgpu", "renderer", marks=pytest.mark.slow),
    ("ort-web", "wasm", ""),
    pytest.param("ort-web", "webgpu", "renderer", marks=pytest.mark.slow),
    pytest.param("tfjs", "cpu", "", marks=pytest.mark.slow),
]


@needs_chromium
@pytest.mark.parametrize(("runtime", "backend", "named"), CHROMIUM)
def test_chromium_runs_a_model(models, runtime, backend, named):
    check(models[runtime], "chromium", runtime, backend, named)


@needs_firefox
@pytest.mark.parametrize(
    ("runtime", "backend", "named"),
    [
        ("tfjs", "wasm", ""),
        pytest.param("tfjs", "webgl", "renderer", marks=[needs_screen, pytest.mark.slow]),
        pytest.param("ort-web", "wasm", "", marks=pytest.mark.slow),
        pytest.param("tfjs", "cpu", "", marks=pytest.mark.slow),
    ],
)
def test_firefox_runs_a_model(models, runtime, backend, named):
    check(models[runtime], "firefox", runtime, backend, named)


def check(model, browser, runtime, backend, named):
    session = start(model, browser, runtime, backend)
    watch = Watch(session)
    try:
        np.testing.assert_allclose(session(IMAGE), expected(), atol=1e-5)
        other = IMAGE[:1, :, ::2].copy()
        np.testing.assert_allclose(session(other), expected(other), atol=1e-5)
        seconds = session.seconds(IMAGE, 4)
        assert len(seconds) == 4 and all(0 <= each < 60 for each in seconds)
        described = session.describe
        assert (described["runtime"], described["backend"], described["browser"]) == (runtime, backend, browser)
        assert described["provider"] == backend and described["version"] and described["browser_version"]
        assert described["cross_origin_isolated"] and not described["half"]
        assert bool(described["renderer"]) == bool(named)
        assert described["software"] <= bool(named)
        assert (described["threads"] >= 1) == (backend == "wasm")
        memory = session.memory()
        assert memory["process"] > 50e6
        assert ("wasm" in memory) == (backend == "wasm" or runtime == "ort-web")
        assert ("gpu" in memory) == (runtime == "tfjs" and backend in ("webgl", "webgpu"))
        assert ("js" in memory) == (browser == "chromium")
        assert 0 <= described["overhead"] < 1e-4  # 1 % of a latency of 10 ms: an order above what is found
        assert session.start_seconds > 0 and session.load_seconds > 0
    finally:
        session.close()
    watch.assert_nothing_left()


@needs_chromium
@pytest.mark.slow
def test_half_precision_is_really_half(models):
    session = start(models["tfjs"], backend="webgl", half=True)
    try:
        off = np.abs(session(IMAGE) - expected()).max()
        assert session.describe["half"] and 1e-4 < off < 0.05  # ten bits of mantissa; float32 is off by 1e-6
    finally:
        session.close()


@needs_chromium
def test_image_is_shipped_once_and_downloads_are_weighed(models):
    session = start(models["identity"], threads=1)
    try:
        np.testing.assert_array_equal(session(IMAGE), IMAGE)
        session._server.tensors["input"] = b""  # fetched again, it would be refused
        np.testing.assert_array_equal(session(IMAGE), IMAGE)
        changed = IMAGE.copy()
        changed[0, 0, 0, 0] += 1
        np.testing.assert_array_equal(session(changed), changed)
        files = [path.name for path in session._server.served("vendor")]
        assert sorted(files) == [
            "tf-backend-wasm.es2017.min.js",
            "tf-converter.es2017.min.js",
            "tf-core.es2017.min.js",
            "tfjs-backend-wasm-simd.wasm",  # one thread: the build without threads
        ]
        download = session.download()
        assert download["model"]["raw"] == (models["identity"] / "model.json").stat().st_size
        assert download["runtime"]["raw"] > download["runtime"]["gzip"] > download["runtime"]["brotli"] > 100_000
    finally:
        session.close()


@needs_chromium
def test_threads_work_under_the_headers_of_the_server(models):
    server = Server({"web": web_folder(), "vendor": vendored("puppeteer-core").parent, "model": models["identity"]})
    options = BrowserOptions(browser="chromium", patience=60)
    driver = Driver(server.url + "web/bench/index.html", backend="wasm", options=options)
    try:
        # TF.js allows itself half of the cores, so a machine of two would not show that threads come through
        driver.evaluate("Object.defineProperty(navigator, 'hardwareConcurrency', {value: 8})")
        driver.evaluate("bench.open({runtime: 'tfjs', backend: 'wasm', threads: 3, half: false})")
        assert driver.evaluate("bench.load('model.json')")["describe"]["threads"] == 3
        assert "tfjs-backend-wasm-threaded-simd.wasm" in [path.name for path in server.served("vendor")]
    finally:
        driver.close()
        server.close()


WORKER = """
import { openEngine } from "../web/shared/engine.js";
const vendor = new URL("../vendor/", import.meta.url);
const answers = [];
for (const backend of ["wasm", "cpu"]) {
  const engine = await openEngine({ runtime: "tfjs", backend, vendor });
  let told = 0;
  const model = await engine.load(new URL("model.json", import.meta.url), { onProgress: (done) => { told = done; } });
  const { data, shape } = await model.run(Float32Array.from([1, 2, 3, 4, 5, 6]), [1, 1, 2, 3]);
  answers.push([engine.describe.backend, model.layout, told, shape, [...data]]);
  model.dispose();
  engine.close();
}
postMessage(answers);
"""
ASK = """new Promise((resolve, reject) => {
  const worker = new Worker(new URL("../../model/worker.js", location.href), { type: "module" });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = reject;
})"""


@pytest.mark.parametrize(
    "browser",
    [
        pytest.param("chromium", marks=needs_chromium),
        pytest.param("firefox", marks=[needs_firefox, pytest.mark.slow]),
    ],
)
def test_engine_runs_in_a_module_worker(tmp_path, browser):
    model = tfjs_identity(tmp_path / "model")
    (model / "worker.js").write_text(WORKER)
    session = start(model, browser)
    try:
        values = [1, 2, 3, 4, 5, 6]
        answer = [[backend, "NHWC", 1, [1, 1, 2, 3], values] for backend in ("wasm", "cpu")]
        assert session._driver.evaluate(ASK) == answer
    finally:
        session.close()
