"""Lists of addresses against a server on this machine that behaves as badly as real ones do."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import PIL.Image
import pytest

from compress import cli
from compress.core.errors import DataError
from compress.core.launch import launch
from compress.kit.data.shards import open_shards
from compress.kit.data.urls import Patience, fetch, name_of, read_urls
from compress.kit.images import read_rgb

QUICK = Patience(connect=2, silence=0.5, whole=1.5, tries=3, pause=0.05, longest=0.2, bytes=200_000, workers=8)


def picture(seed, kind="JPEG"):
    values = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What a path asks for: /ok/3/a.jpg is a photo made of 3, /404 is absent, and so on."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with self.server.lock:
            self.server.seen.append(self.path)
            tries = self.server.seen.count(self.path)
        kind, _, rest = self.path.lstrip("/").partition("/")
        seed = int(hashlib.sha256(rest.encode()).hexdigest()[:6], 16)
        getattr(self, f"say_{kind}")(picture(seed), tries)

    def answer(self, code, body, kind="image/jpeg", length=None, **headers):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def say_ok(self, photo, tries):
        time.sleep(self.server.pause)
        self.answer(200, photo)

    def say_png(self, photo, tries):
        self.answer(200, picture(1, "PNG"))

    def say_404(self, photo, tries):
        self.answer(404, b"<html>gone</html>", "text/html")

    def say_html(self, photo, tries):
        self.answer(200, b"<html>photo unavailable</html>")

    def say_cut(self, photo, tries):
        self.answer(200, photo[: len(photo) // 2], length=len(photo))
        self.close_connection = True

    def say_cutonce(self, photo, tries):
        if tries > 1:
            return self.answer(200, photo)
        return self.say_cut(photo, tries)

    def say_half(self, photo, tries):  # a whole answer with half a photo in it
        self.answer(200, photo[: len(photo) // 2])

    def say_busy(self, photo, tries):
        if tries > 2:
            return self.answer(200, photo)
        return self.answer(503, b"", Retry_After="1")

    def say_silent(self, photo, tries):
        time.sleep(1.5)
        self.close_connection = True

    def say_drip(self, photo, tries):
        self.send_response(200)
        self.send_header("Content-Length", str(len(photo)))
        self.end_headers()
        for byte in photo:
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    def say_huge(self, photo, tries):
        self.answer(200, photo + bytes(400_000))

    def say_redirect(self, photo, tries):
        self.answer(302, b"", Location="/ok/" + self.path.partition("/redirect/")[2])

    def say_loop(self, photo, tries):
        self.answer(302, b"", Location=self.path)

    def say_empty(self, photo, tries):
        self.answer(200, b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a reader that went away
    server.lock, server.seen, server.pause = threading.Lock(), [], 0
    server.at = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def quiet(note=""):
    pass


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture
def warnings(monkeypatch):
    from compress.kit.data import urls

    lines = []
    monkeypatch.setattr(urls.log, "warning", lambda text, *values: lines.append(text % values))
    return lines


GOOD = ("ok/1/a.jpg", "png/b.png", "redirect/c.jpg", "cutonce/d.jpg", "busy/e.jpg", "ok/no-suffix", "ok/f.jpg?size=big")
BAD = {
    "404/a.jpg": "404",
    "html/a.jpg": "not an image",
    "cut/a.jpg": "cut short",
    "half/a.jpg": "can't be decoded",
    "silent/a.jpg": "silent",
    "drip/a.jpg": "not whole after 1.5 s",
    "huge/a.jpg": "more than 0.2 MB",
    "loop/a.jpg": "redirected too often",
    "empty/a.jpg": "not an image",
}


def test_good_and_bad_addresses(server, tmp_path, warnings):
    urls = [f"{server.at}/{path}" for path in (*GOOD, *BAD)] + ["file:///etc/passwd", "nonsense", "http://[1"]
    files = fetch(urls, tmp_path / "kept", quiet, QUICK)
    assert [file.stem for file in files] == [name_of(url) for url in urls[: len(GOOD)]]
    assert [file.suffix for file in files] == [".jpg", ".png", *[".jpg"] * 5]
    assert all(read_rgb(file).shape == (24, 32, 3) for file in files)
    assert sorted((tmp_path / "kept").iterdir()) == sorted(files)  # nothing half-written beside them
    assert len(warnings) == len(BAD) + 3 + 1
    for path, words in BAD.items():
        (line,) = [line for line in warnings if f"/{path}:" in line]
        assert words in line and "\n" not in line
    assert warnings[-1] == "12 of 19 addresses give no photo"
    assert server.seen.count("/404/a.jpg") == server.seen.count("/html/a.jpg") == 1  # final at once
    assert server.seen.count("/cut/a.jpg") == server.seen.count("/silent/a.jpg") == QUICK.tries


def test_the_bytes_are_the_servers(server, tmp_path):
    (file,) = fetch([f"{server.at}/ok/x.jpg"], tmp_path, quiet, QUICK)
    assert file.read_bytes() == picture(int(hashlib.sha256(b"x.jpg").hexdigest()[:6], 16))


def test_what_was_fetched_is_kept(server, tmp_path):
    urls = [f"{server.at}/ok/{number}.jpg" for number in range(5)]
    first = fetch(urls[:3], tmp_path, quiet, QUICK)
    before = len(server.seen)
    again = fetch(urls, tmp_path, quiet, QUICK)
    assert again[:3] == first and len(server.seen) == before + 2


def test_all_broken_is_an_error(server, tmp_path, warnings):
    with pytest.raises(DataError, match="none of 2 addresses"):
        fetch([f"{server.at}/404/a.jpg", f"{server.at}/html/b.jpg"], tmp_path, quiet, QUICK)
    assert len(warnings) == 2


def test_nobody_listens(tmp_path, warnings):
    with pytest.raises(DataError, match="none of 1"):
        fetch(["http://127.0.0.1:9/a.jpg"], tmp_path, quiet, QUICK)
    assert "no connection" in warnings[0]


def test_names_do_not_collide_and_stay_in_the_folder():
    urls = [
        "http://a/x/1.jpg",
        "http://a/y/1.jpg",
        "http://a/1.jpg?v=1",
        "http://a/1.jpg?v=2",
        "http://a/..%2F..%2Fetc",
    ]
    names = [name_of(url) for url in urls]
    assert len(set(names)) == len(urls)
    assert all("/" not in name and not name.startswith(".") for name in names)
    assert names[0].startswith("1-") and name_of("http://a/").startswith("photo-")
    assert len(name_of("http://a/" + "x" * 500)) < 80


def test_lists_as_they_are_published(tmp_path):
    text = "\ufeff# cats\r\nhttp://a/1.jpg\r\n\r\nn02084071_1\thttp://a/2.jpg\r\nhttp://a/1.jpg\r\n"
    (tmp_path / "l.txt").write_bytes(text.encode() + b"http://a/\xe9.jpg\n")
    assert read_urls(tmp_path / "l.txt") == ["http://a/1.jpg", "http://a/2.jpg", "http://a/\ufffd.jpg"]
    (tmp_path / "l.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="lists no address"):
        read_urls(tmp_path / "l.txt")


def test_pack_takes_a_list_beside_a_folder(server, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.jpg").write_bytes(picture(7))
    paths = [f"ok/{number}/p.jpg" for number in range(12)] + ["404/p.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(f"{server.at}/{path}" for path in paths))
    assert run("pack", tmp_path / "list.txt", tmp_path / "d", "--out", tmp_path / "s", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["photos"] == 13
    assert err.count("left out: ") == 1 and "1 of 13 addresses" in err
    assert len(list((tmp_path / "s-downloads").iterdir())) == 12
    assert "mine" in open_shards(tmp_path / "s").names
    before = len(server.seen)
    assert run("pack", tmp_path / "list.txt", tmp_path / "d", "--out", tmp_path / "s") == 0
    assert server.seen[before:] == ["/404/p.jpg"]


def test_killed_in_the_middle_and_run_again(server, tmp_path):
    server.pause = 0.1
    (tmp_path / "list.txt").write_text("\n".join(f"{server.at}/ok/{number}/p.jpg" for number in range(40)))
    line = ["pack", str(tmp_path / "list.txt"), "--out", str(tmp_path / "s"), "--connections", "2"]
    child = subprocess.Popen([sys.executable, "-m", "compress", *line], stderr=subprocess.DEVNULL)
    where = tmp_path / "s-downloads"
    while not where.is_dir() or len(list(where.glob("p-*.jpg"))) < 8:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    server.pause = 0
    had = len(list(where.glob("p-*.jpg")))
    assert 8 <= had < 40
    before = len(server.seen)
    assert run(*line) == 0
    assert len(server.seen) - before == 40 - had
    assert len(open_shards(tmp_path / "s")) == 40


def test_interrupted_at_once(server, tmp_path):
    """Ctrl-C does not wait for what is under way."""
    (tmp_path / "list.txt").write_text("\n".join(f"{server.at}/drip/{number}.jpg" for number in range(40)))
    line = ["pack", str(tmp_path / "list.txt"), "--out", str(tmp_path / "s"), "--connections", "4"]
    child = subprocess.Popen([sys.executable, "-m", "compress", *line], stderr=subprocess.PIPE, text=True)
    while not server.seen:
        assert child.poll() is None
        time.sleep(0.01)
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert time.monotonic() - start < 10
