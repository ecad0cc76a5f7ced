"""Photos from a list of addresses: fetched side by side, tried again, checked, and kept for the next run."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import PIL.Image
import requests
import urllib3

from compress import __version__
from compress.core.console import Advance, log
from compress.core.errors import DataError
from compress.core.whole import written_whole
from compress.kit.images import SUFFIXES, decode_rgb, is_image

AGENT = f"image-compress/{__version__}"
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be another one a moment later
_SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff"}
_PIECE = 65536  # bytes


@dataclass(frozen=True)
class Patience:
    """How long an address is tried.

    Args:
        connect: Seconds to connect.
        silence: Seconds without a byte.
        whole: Seconds for one photo in one try, however slowly it drips.
        tries: In all; 404 and the like are final at once.
        pause: Seconds before the second try; twice as long before each further one.
        longest: Seconds of a pause at most, also where the server asks for more (Retry-After).
        bytes: Of a photo at most.
        workers: Addresses at once.
    """

    connect: float = 10.0
    silence: float = 15.0
    whole: float = 120.0
    tries: int = 3
    pause: float = 1.0
    longest: float = 30.0
    bytes: int = 50 * 10**6
    workers: int = 16


class _NoPhotoError(Exception):
    """An address that gave no photo; ``later`` says whether another try may."""

    def __init__(self, why: str, *, later: bool = False, wait: float = 0.0) -> None:
        super().__init__(why)
        self.later, self.wait = later, wait


def read_urls(path: Path) -> list[str]:
    """Read the addresses of a text file, each once: one a line, the last word of it; "#" starts a comment.

    Lines such as ImageNet's, "n02084071_1 http://...", are understood so.

    Raises:
        DataError: If there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise DataError(f"no list of addresses at '{path}'", hint="give a .txt file with one address a line")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    words = [line.split()[-1] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not words:
        raise DataError(f"'{path}' lists no address", hint="write one address a line")
    return list(dict.fromkeys(words))


def name_of(url: str) -> str:
    """Name the photo of an address: the stem of its path and 10 hex digits of the address's sha256."""
    stem = Path(unquote(urlsplit(url).path)).stem
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:60] or "photo"
    return f"{safe}-{hashlib.sha256(url.encode()).hexdigest()[:10]}"


def fetch(urls: Sequence[str], folder: Path, advance: Advance, patience: Patience = Patience()) -> list[Path]:
    """Fetch photos into ``folder``, those that already lie there not again; each is written whole or not at all.

    An address without a photo is one warning line, and the number of them another at the end.

    Args:
        urls: Addresses, http or https.
        folder: Where the photos are kept.
        advance: Called once an address.
        patience: How long each is tried.

    Returns:
        The photos' files, in the order of their addresses.

    Raises:
        DataError: If no address gives a photo.
    """
    kept = {path.stem: path for path in folder.iterdir() if is_image(path)} if folder.is_dir() else {}
    found = {url: kept[name_of(url)] for url in urls if _is_web(url) and name_of(url) in kept}
    for _ in found:
        advance()
    missing = [url for url in urls if url not in found]
    stop = threading.Event()
    pool = ThreadPoolExecutor(max(1, patience.workers))
    try:
        tasks = {pool.submit(_fetch_one, url, folder, patience, stop): url for url in missing}
        for task in as_completed(tasks):
            try:
                found[tasks[task]] = task.result()
            except (_NoPhotoError, DataError) as error:
                log.warning("left out: %s: %s", _short(tasks[task]), " ".join(str(error).split()))
            advance()
    finally:
        stop.set()  # interrupted: what is under way gives up, and nothing more starts
        pool.shutdown(cancel_futures=True)
    if not found:
        raise DataError(f"none of {len(urls)} addresses gives a photo", hint="see the lines above")
    if len(found) < len(urls):
        log.warning("%d of %d addresses give no photo", len(urls) - len(found), len(urls))
    return [found[url] for url in urls if url in found]


def _fetch_one(url: str, folder: Path, patience: Patience, stop: threading.Event) -> Path:
    if not _is_web(url):
        raise _NoPhotoError("no http or https address")
    for attempt in range(1, patience.tries + 1):
        try:
            return _keep(url, _download(url, patience, stop), folder)
        except _NoPhotoError as error:
            pause = min(max(patience.pause * 2 ** (attempt - 1), error.wait), patience.longest)
            if not error.later or attempt == patience.tries or stop.wait(pause):
                raise
    raise AssertionError("tries are counted from 1")


def _keep(url: str, data: bytes, folder: Path) -> Path:
    """Write a photo under its name, once it was decoded."""
    decode_rgb(data, "the answer")
    with PIL.Image.open(BytesIO(data)) as image:
        suffix = _SUFFIX.get(image.format or "", "")
    if suffix not in SUFFIXES:
        raise _NoPhotoError(f"a picture of format {image.format}, wanted {', '.join(sorted(_SUFFIX))}")
    path = folder / (name_of(url) + suffix)
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


def _download(url: str, patience: Patience, stop: threading.Event) -> bytes:
    """One try: the bytes behind an address."""
    try:
        with _session().get(url, stream=True, timeout=(patience.connect, patience.silence)) as answer:
            if answer.status_code != requests.codes.ok:
                raise _NoPhotoError(f"the server answers {answer.status_code} {answer.reason}",
                              later=answer.status_code in _LATER, wait=_asked_wait(answer))  # fmt: skip
            return _body(answer, patience, stop)
    except requests.exceptions.TooManyRedirects as error:
        raise _NoPhotoError("redirected too often") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise _NoPhotoError("no valid address") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _NoPhotoError(_in_words(error), later=True) from error


def _body(answer: requests.Response, patience: Patience, stop: threading.Event) -> bytes:
    """Read what comes, as it comes: a limit holds for a server that sends one byte a second too."""
    end = time.monotonic() + patience.whole
    pieces: list[bytes] = []
    length = 0
    while piece := answer.raw.read1(_PIECE, decode_content=True):
        pieces.append(piece)
        length += len(piece)
        if length > patience.bytes:
            raise _NoPhotoError(f"more than {patience.bytes / 1e6:g} MB")
        if time.monotonic() > end or stop.is_set():
            raise _NoPhotoError(f"not whole after {patience.whole:g} s", later=True)
    declared = answer.headers.get("Content-Length", "")
    if declared.isdigit() and "Content-Encoding" not in answer.headers and length < int(declared):
        raise _NoPhotoError(f"cut short: {length} of {declared} bytes", later=True)
    return b"".join(pieces)


_LOCAL = threading.local()


def _session() -> requests.Session:
    """One session a thread: they are not made to be shared."""
    if not hasattr(_LOCAL, "session"):
        _LOCAL.session = requests.Session()
        _LOCAL.session.headers["User-Agent"] = AGENT
        _LOCAL.session.max_redirects = 5
    session: requests.Session = _LOCAL.session
    return session


def _asked_wait(answer: requests.Response) -> float:
    """Seconds the server asks for, 0 where it names none (or a date, which few do)."""
    asked = answer.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.0


def _in_words(error: Exception) -> str:
    """What happened, without the library's own nesting."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server went silent"
    if isinstance(error, urllib3.exceptions.ProtocolError):  # while the photo was coming in
        return "cut short: the connection broke off"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate can't be trusted"
    if isinstance(error, requests.exceptions.ConnectionError | urllib3.exceptions.HTTPError):
        return "no connection"
    return str(error)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _short(url: str) -> str:
    return url if len(url) <= 120 else f"{url[:117]}..."
