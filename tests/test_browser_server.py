import gzip
import http.client
import os
import shutil
import subprocess
import sys

import psutil
import pytest

from benchmarks.browser.server import Server
from benchmarks.browser.weight import resident, weigh
from compress.core.errors import MissingExtraError
from compress.core.web import find_node


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "web"
    (folder / "deep").mkdir(parents=True)
    (folder / "page.html").write_text("<p>hello")
    (folder / "deep" / "code.mjs").write_text("1")
    (folder / "deep" / "code.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "beside.onnx").write_bytes(b"model")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    server = Server({"web": folder, "model": tmp_path / "beside.onnx"})
    yield server
    server.close()


def ask(server, path, *, method="GET", body=None, token=None, **headers):
    connection = http.client.HTTPConnection(server.host, timeout=5)
    try:
        connection.putrequest(method, f"/{token or server.token}/{path}", skip_host="Host" in headers)
        for name, value in {**headers, **({"Content-Length": str(len(body))} if body else {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_files_have_their_types_and_the_headers_threads_need(server):
    for path, kind in (
        ("web/page.html", "text/html; charset=utf-8"),
        ("web/deep/code.mjs", "text/javascript; charset=utf-8"),
        ("web/deep/code.wasm", "application/wasm"),
        ("model/beside.onnx", "application/octet-stream"),
    ):
        status, headers, _ = ask(server, path)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'" and "unsafe-inline" not in str(policy)
        assert "'unsafe-eval'" not in policy["script-src"] and "http" not in str(policy)
    assert [path.name for path in server.served("web")] == ["code.mjs", "code.wasm", "page.html"]
    assert [path.name for path in server.served("model")] == ["beside.onnx"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "web",
        "web/",
        "web/deep",
        "web/deep/",
        "web/../secret.txt",
        "web/%2e%2e/secret.txt",
        "web/..%2fsecret.txt",
        "web/deep/../../secret.txt",
        "web//etc/passwd",
        "web/link.txt",
        "web/page.html%00.js",
        "web/..%5csecret.txt",
        "model/../secret.txt",
        "model/secret.txt",
        "model/",
        "secret.txt",
        "nothing/page.html",
        "tensor/none",
    ],
)
def test_nothing_else_is_served(server, path):
    assert ask(server, path)[0] == 404


def test_wrong_token_and_wrong_host_are_refused(server):
    assert ask(server, "web/page.html", token="x" * len(server.token))[0] == 404
    assert ask(server, "page.html", token="web")[0] == 404
    port = server.host.split(":")[1]
    for host in ("evil.example", f"evil.example:{port}", f"localhost:{port}", "127.0.0.1"):
        assert ask(server, "web/page.html", Host=host)[0] == 421
        assert ask(server, "tensor/output", method="POST", body=b"1234", Host=host)[0] == 421
    assert server.tensors == {}


def test_only_loopback_listens(server):
    port = int(server.host.split(":")[1])
    listening = [each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]


def test_tensors_go_both_ways(server):
    server.tensors["input"] = bytes(range(256))
    assert ask(server, "tensor/input")[2] == bytes(range(256))
    body = os.urandom(3_000_000)
    assert ask(server, "tensor/output", method="POST", body=body)[0] == 200
    assert server.tensors["output"] == body
    assert ask(server, "tensor/output", method="POST", body=b"x", Origin="http://evil.example")[0] == 403
    assert ask(server, "web/page.html", method="POST", body=b"x")[0] == 403
    assert ask(server, "tensor/output", method="POST", **{"Content-Length": "-5"})[0] == 403
    assert ask(server, "tensor/output", method="POST", **{"Content-Length": "many"})[0] == 403
    assert ask(server, "web/page.html", method="DELETE")[0] == 501
    assert server.tensors["output"] == body


def test_closed_server_does_not_listen(server):
    server.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "web/page.html")


def test_downloads_weigh_what_a_server_would_send(tmp_path, monkeypatch):
    try:
        find_node()
    except MissingExtraError as error:
        pytest.skip(str(error))
    monkeypatch.setattr("benchmarks.browser.weight.web_folder", _without_cache(tmp_path))
    text, noise = tmp_path / "a.js", tmp_path / "b.bin"
    text.write_bytes(b"let value = 1;\n" * 10_000)
    noise.write_bytes(os.urandom(50_000))
    first = weigh([text, noise])
    assert first["raw"] == 200_000
    packed = sum(len(gzip.compress(path.read_bytes(), 9)) for path in (text, noise))
    assert abs(first["gzip"] - packed) <= 64  # headers differ by a few bytes
    assert 50_000 < first["brotli"] < first["gzip"]
    assert weigh([text, noise]) == first  # from the weights that were kept
    text.write_bytes(b"other")
    assert weigh([text])["raw"] == 5
    assert weigh([]) == {"raw": 0, "gzip": 0, "brotli": 0}


def _without_cache(folder):
    from compress.core.web import web_folder

    (folder / "web").mkdir()
    shutil.copytree(web_folder() / "driver", folder / "web" / "driver")
    return lambda: folder / "web"


@pytest.mark.skipif(sys.platform != "linux", reason="peaks come from /proc")
def test_peak_of_a_process_outlives_what_it_freed():
    code = "b = bytearray(200_000_000); b[::4096] = b'x' * len(b[::4096]); del b; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        process = psutil.Process(child.pid)
        assert process.memory_info().rss < 100e6
        peak = resident([process])
        child.communicate(b"\n")
    assert 200e6 < peak < 260e6
    assert resident([process]) == 0  # gone by now
