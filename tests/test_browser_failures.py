import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from browsers import (
    BIAS,
    KERNEL,
    Watch,
    assert_no_driver,
    make_models,
    needs_chromium,
    needs_firefox,
    start,
    tfjs_convolution,
)

from benchmarks.browser.driver import BrowserError
from compress.core.errors import MissingExtraError, UsageError
from compress.core.web import find_browser

IMAGE = np.random.default_rng(2).random((2, 3, 9, 14), dtype=np.float32)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


@needs_chromium
@pytest.mark.parametrize("backend", ["webgl", pytest.param("webgpu", marks=pytest.mark.slow)])
def test_browser_without_a_backend_says_so(models, tmp_path, backend):
    program = tmp_path / "browser"
    _, path = find_browser("chromium")
    program.write_text(f'#!/bin/sh\nexec {path} "$@" --use-gl=disabled --disable-features=WebGPU,Vulkan\n')
    program.chmod(0o755)
    with pytest.raises(BrowserError, match="this browser has no " + {"webgl": "WebGL 2", "webgpu": "WebGPU"}[backend]):
        start(models["tfjs"], str(program), backend=backend).close()
    assert_no_driver()


def kill_renderers(session):
    for process in session._driver.processes():
        if "--type=renderer" in " ".join(process.cmdline()) or process.cmdline()[-1:] == ["tab"]:
            process.kill()


def hang(session):
    session._driver.evaluate("bench.time = () => { for (;;); }")
    session._driver.patience = 2.0


def exhaust(session):
    session._driver.evaluate(
        "bench.time = () => { const kept = []; for (;;) kept.push(Array.from({ length: 1e6 }, Math.random)); }"
    )


FAILURES = [
    pytest.param(hang, "did not answer within 2 s", id="hung page"),
    pytest.param(kill_renderers, "the page crashed", id="crashed page"),
    pytest.param(lambda s: os.kill(s._driver.pid, signal.SIGKILL), "the browser ended .SIGKILL", id="killed browser"),
    pytest.param(lambda s: s._driver._node.kill(), "Node, which .* ended .SIGKILL", id="killed Node"),
    pytest.param(exhaust, "the page crashed .most often memory", id="no memory", marks=pytest.mark.slow),
]


@needs_chromium
@pytest.mark.parametrize(("fail", "reason"), FAILURES)
def test_failure_is_told_and_leaves_nothing(models, fail, reason):
    failing(models, "chromium", fail, reason)


@needs_firefox
@pytest.mark.slow
@pytest.mark.parametrize(("fail", "reason"), FAILURES[:4])
def test_failure_in_firefox_is_told_and_leaves_nothing(models, fail, reason):
    failing(models, "firefox", fail, reason)


def failing(models, browser, fail, reason):
    session = start(models["identity"], browser)
    watch = Watch(session)
    try:
        fail(session)
        session._driver.patience = min(session._driver.patience, 200.0)
        with pytest.raises(BrowserError, match=reason) as caught:
            session.seconds(IMAGE, 1)
        assert caught.value.ended
        watch.assert_nothing_left()
        with pytest.raises(BrowserError, match="the browser is gone"):
            session(IMAGE)
    finally:
        session.close()


@needs_chromium
def test_error_in_a_run_is_told_and_the_session_goes_on(models):
    session = start(models["tfjs"])
    try:
        session._driver.evaluate("bench.time = () => new Float32Array(2 ** 52)")  # more than any tab may have
        with pytest.raises(BrowserError, match="Invalid typed array length") as caught:
            session.seconds(IMAGE, 1)
        assert not caught.value.ended
        with pytest.raises(BrowserError, match=r"shape|channel|depth"):
            session(IMAGE[:, :2])
        assert session(IMAGE).shape == (2, 4, 9, 14)
    finally:
        session.close()


@needs_chromium
def test_killed_python_leaves_nothing(models):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import browsers as t; from pathlib import Path;"
        "w = t.Watch(t.start(Path(sys.argv[1])));"
        "print(w.folder, *[p.pid for p in w.processes], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(models["identity"])]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        folder, *ids = child.stdout.readline().split()
        processes = [psutil.Process(int(each)) for each in ids]
        os.killpg(child.pid, signal.SIGKILL)  # as benchmarks.process does with a worker that hangs
    psutil.wait_procs(processes, timeout=10)
    assert [found for found in processes if found.is_running() and found.status() != "zombie"] == []
    assert not Path(folder).exists()


@needs_chromium
@pytest.mark.parametrize("runtime", ["tfjs", pytest.param("ort-web", marks=pytest.mark.slow)])
def test_damaged_model_is_refused(tmp_path, runtime):
    if runtime == "tfjs":
        model = tfjs_convolution(tmp_path / "model", KERNEL, BIAS)
        weights = model / "group1-shard1of1.bin"
        said = "the model is damaged: its weights have 400 bytes, model.json tells of 448"
        weights.write_bytes(weights.read_bytes()[:400])
    else:
        model, said = tmp_path / "model.onnx", "protobuf|parsing|load"
        model.write_bytes(b"\x08\x08 this is no model")
    with pytest.raises(BrowserError, match=said):
        start(model, runtime=runtime).close()
    assert_no_driver()


@needs_chromium
def test_program_that_is_no_browser_is_told(models):
    with pytest.raises(BrowserError, match="browser /bin/false does not start"):
        start(models["identity"], "/bin/false", patience=20)
    assert_no_driver()


def test_no_browser_exits_with_3(models, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"no browser .*make setup-browser") as caught:
        start(models["identity"], "")
    assert caught.value.exit_code == 3


def test_backends_a_runtime_lacks_are_refused(models):
    with pytest.raises(UsageError, match=r"ort-web is not run on webgl; .*wrong values"):
        start(models["ort-web"], runtime="ort-web", backend="webgl")
    with pytest.raises(UsageError, match="float16 textures"):
        start(models["tfjs"], backend="wasm", half=True)
