"""The web server of one browser: on 127.0.0.1 only, behind a random token, with the headers that WASM threads need."""

from __future__ import annotations

import hmac
import secrets
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
# blob: because TF.js' threaded WASM makes its workers, and the script they import, from blobs
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval' blob:",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LARGEST = 1 << 31  # bytes of a posted tensor


class Server:
    """Serves folders and files under names, and exchanges tensors with the page.

    Args:
        shared: Name, the first part of the path after the token, to a folder, or to one file that is served alone
            under its own name. Nothing else is served; there are no listings.

    Attributes:
        url: Where it listens, with the token and a slash at the end.
        tensors: Raw bytes that the page fetches from, and posts to, "tensor/NAME".
    """

    def __init__(self, shared: Mapping[str, Path]) -> None:
        self.shared = {name: path.resolve() for name, path in shared.items()}
        self.token = secrets.token_urlsafe(24)
        self.tensors: dict[str, bytes] = {}
        self._served: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._http = _Listener(self)
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"http://{self.host}/{self.token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def served(self, name: str) -> list[Path]:
        """Return the files that were fetched from under a name so far, each once."""
        with self._lock:
            return sorted({path for url, path in self._served.items() if url.split("/", 1)[0] == name})

    def note(self, url: str, path: Path) -> None:
        """Remember that a file was fetched."""
        with self._lock:
            self._served[url] = path

    def find(self, url: str) -> Path | None:
        """Return the file behind a path such as "web/bench/index.html", or None if there is none to be served."""
        name, _, rest = url.partition("/")
        root = self.shared.get(name)
        parts = PurePosixPath(rest).parts
        if root is None or not parts or any(part in ("..", "/") or "\\" in part or "\0" in part for part in parts):
            return None
        if root.is_file():
            return root if parts == (root.name,) else None
        found = root.joinpath(*parts).resolve()
        return found if found.is_relative_to(root) and found.is_file() else None

    def close(self) -> None:
        """Stop listening; harmless when it has stopped."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: a browser that is ended drops its connections."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        if path.startswith("tensor/"):
            self._send(self.server.owner.tensors.get(path.removeprefix("tensor/")))
            return
        found = self.server.owner.find(path)
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        self.server.owner.note(path, found)
        self._send_file(found)

    def do_POST(self) -> None:
        path = self._path()
        if path is None:
            return
        told = self.headers.get("Content-Length", "")
        length = int(told) if told.isdecimal() else -1
        foreign = self.headers.get("Origin", f"http://{self.server.owner.host}") != f"http://{self.server.owner.host}"
        if foreign or not path.startswith("tensor/") or not 0 <= length <= _LARGEST:
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        self.server.owner.tensors[path.removeprefix("tensor/")] = self.rfile.read(length)
        self._send(b"")

    def _path(self) -> str | None:
        """The path after the token; None when the request was refused: for a wrong Host (DNS rebinding) or token."""
        owner = self.server.owner
        if self.headers.get("Host") != owner.host:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        token, _, path = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), owner.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return path

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # what else it sent was not read
        self._head(status, 0, ".txt")

    def _send(self, content: bytes | None) -> None:
        self._head(HTTPStatus.NOT_FOUND if content is None else HTTPStatus.OK, len(content or b""), ".bin")
        self.wfile.write(content or b"")

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self._head(HTTPStatus.OK, path.stat().st_size, path.suffix)
            with suppress(ConnectionError):
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _head(self, status: HTTPStatus, length: int, suffix: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(length))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        return "image-compress"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""
