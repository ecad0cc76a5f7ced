"""A written demo on a plain static server, what its tests compare, and how Node runs them."""

import contextlib
import functools
import http.server
import json
import os
import subprocess
import threading
import time

import numpy as np

from compress.core.web import find_browser, find_node, web_folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """A plain static server; the model "slow" takes its time."""

    def do_GET(self):
        if self.path.endswith("/slow/model.json"):
            time.sleep(3)
        with contextlib.suppress(ConnectionError):  # a cancelled model is not waited for
            super().do_GET()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder):
    """Yield the address of ``folder``."""
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def node_tests(file, patience=300, **environment):
    """Run one file of benchmarks/web/test; returns what it says."""
    command = [find_node(), "--test", "--test-reporter=spec", str(web_folder() / "test" / file)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def job(url, kind, folder, **more):
    """What a test of a page is told, as JSON."""
    return json.dumps({"url": url, "kind": kind, "program": find_browser(kind)[1], "folder": str(folder)} | more)


def nearly(found, wanted):
    """Whether 99.9 % of the pixels lie within 2 levels, and the picture is one at all."""
    one, other = np.asarray(found, int), np.asarray(wanted, int)
    assert one.shape == other.shape
    return other.std() > 10 and np.mean(np.abs(one - other) <= 2) >= 0.999
