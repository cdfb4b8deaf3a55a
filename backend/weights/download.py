"""One file over HTTP into a partial file that survives: a cut line, a cancel, kill -9, another day.

The partial file is named by the sha256 that the whole must have, so it is known for what it is and shared by
all sources of the file. What the server called its version (ETag) lies beside it and is sent as If-Range
(RFC 9110, 13.1.5): a server whose file has changed sends the whole instead of the wrong rest.
"""

import contextlib
import errno
import http.client
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from backend.weights.store import OnProgress, WeightsFile
from shared_protocol.errors import Cancelled

PIECE_BYTES = 256 * 1024
TIMEOUT_SECONDS = 20
ATTEMPTS = 4
"""In a row that bring no byte."""
FIRST_PAUSE_SECONDS = 0.2

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
"""This machine's disk, not the source, is at fault."""


class SourceFailed(Exception):
    """This source cannot give the file; the text says why, for the list of what was tried."""


class Refused(SourceFailed):
    """HTTP 401 or 403, in `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"access refused (HTTP {code})")
        self.code = code


def download(
    url: str,
    file: WeightsFile,
    partial: Path,
    on_progress: OnProgress,
    cancelled: threading.Event,
    token: str = "",
) -> bool:
    """Bring what `partial` lacks; returns whether it held something before. SourceFailed, Cancelled, OSError.

    The caller checks the whole.
    """
    resumed = False
    failures = 0
    while True:
        have = _size(partial)
        if have >= file.size:
            if have > file.size:
                forget(partial)
                raise SourceFailed(f"more than the {file.size} bytes of the catalogue")
            return resumed
        resumed = resumed or have > 0
        reason = _attempt(url, file, partial, have, on_progress, cancelled, token)
        if _size(partial) > have:
            failures = 0
            continue
        failures += 1
        if failures >= ATTEMPTS:
            raise SourceFailed(f"{reason}; {_size(partial)} bytes instead of {file.size}")
        if cancelled.wait(FIRST_PAUSE_SECONDS * 2 ** (failures - 1)):
            raise Cancelled(f"cancelled while fetching {file.name}")


def describe(url: str, token: str = "") -> tuple[int, str]:
    """Size in bytes, and sha256 where the server states it (a hub's X-Linked-Etag). SourceFailed, Refused."""
    request = urllib.request.Request(url, headers={"User-Agent": "orrery"}, method="HEAD")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with _HEADS.open(request, timeout=TIMEOUT_SECONDS) as response:
            heads = dict(response.headers.items())
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                raise Refused(error.code) from None
            # A hub sends to its storage with a redirect, whose own head has what we ask for.
            if error.code not in (301, 302, 303, 307, 308):
                raise SourceFailed(f"HTTP {error.code}, {error.reason}") from None
            heads = dict(error.headers.items())
            if "X-Linked-Size" not in heads and "Location" in heads:
                return describe(urllib.parse.urljoin(url, heads["Location"]))
    except (OSError, http.client.HTTPException) as error:
        raise SourceFailed(str(getattr(error, "reason", error)) or type(error).__name__) from None
    size = heads.get("X-Linked-Size") or heads.get("Content-Length", "")
    if not size.isdigit():
        raise SourceFailed("the server does not say how large the file is")
    tag = heads.get("X-Linked-Etag", "").strip('"')
    return int(size), tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""


def forget(partial: Path) -> None:
    """Remove a partial file and what is known of it."""
    partial.unlink(missing_ok=True)
    _tag_path(partial).unlink(missing_ok=True)


def _attempt(
    url: str,
    file: WeightsFile,
    partial: Path,
    have: int,
    on_progress: OnProgress,
    cancelled: threading.Event,
    token: str,
) -> str:
    """One request; why it ended early, in words. SourceFailed where trying again is of no use."""
    request = urllib.request.Request(url, headers={"User-Agent": "orrery"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    tag = _read_tag(partial)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag:
            request.add_header("If-Range", tag)
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
            start = _start(response, have, file.size)
            _write_tag(partial, response.headers.get("ETag", ""))
            _copy(response, file, partial, start, on_progress, cancelled)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the server's file is no longer than what is here
                forget(partial)
                raise SourceFailed(f"no more than {have} bytes instead of {file.size}") from None
            if error.code in (401, 403):
                raise Refused(error.code) from None
            if error.code < 500 and error.code != 429:
                raise SourceFailed(f"HTTP {error.code}, {error.reason}") from None
            return f"HTTP {error.code}, {error.reason}"
    except http.client.HTTPException as error:
        return f"broken answer ({type(error).__name__})"
    except TimeoutError:
        return f"no answer in {TIMEOUT_SECONDS} s"
    except OSError as error:  # URLError is one; a local disk error is not the source's fault
        if error.errno in DISK_ERRNOS:
            raise
        return str(getattr(error, "reason", error)) or type(error).__name__
    return "the connection ended early"


def _start(response: http.client.HTTPResponse, have: int, size: int) -> int:
    """The byte that the answer begins with; SourceFailed when the server's file has another size."""
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        words = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", words)
        if found is None or int(found[1]) != have:
            raise SourceFailed(f"bytes from {have} were asked for, the answer is '{words[:60]}'")
        start, total = have, found[2]
    if total.isdigit() and int(total) != size:
        raise SourceFailed(f"{total} bytes instead of {size}")
    return start


def _copy(
    response: http.client.HTTPResponse,
    file: WeightsFile,
    partial: Path,
    start: int,
    on_progress: OnProgress,
    cancelled: threading.Event,
) -> None:
    done = start
    with partial.open("r+b" if partial.exists() else "wb") as out:
        out.seek(start)
        out.truncate()
        while piece := response.read(PIECE_BYTES):
            if cancelled.is_set():
                raise Cancelled(f"cancelled while fetching {file.name}; what is here is kept")
            done += len(piece)
            if done > file.size:
                out.close()
                forget(partial)
                raise SourceFailed(f"more than the {file.size} bytes of the catalogue")
            out.write(piece)
            on_progress(done, file.size, f"Downloading {file.name}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The token goes on to the same host only: a hub sends to storage with addresses that need none."""

    def redirect_request(self, request, fp, code, message, headers, url):  # type: ignore[no-untyped-def]
        following = super().redirect_request(request, fp, code, message, headers, url)
        secret = request.unredirected_hdrs.get("Authorization")
        same = urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(request.full_url)[:2]
        if following is not None and secret and same:
            following.add_unredirected_header("Authorization", secret)
        return following


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The first answer's head is the one that is looked at."""

    def redirect_request(self, request, fp, code, message, headers, url):  # type: ignore[no-untyped-def]
        return None


_HEADS = urllib.request.build_opener(_NoRedirects)
_OPENER = urllib.request.build_opener(_Redirects)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tag_path(partial: Path) -> Path:
    return partial.with_suffix(".etag")


def _read_tag(partial: Path) -> str:
    """The server's name of the version that the partial file is of; a weak one (W/...) is no proof."""
    try:
        return _tag_path(partial).read_text(encoding="latin-1")
    except FileNotFoundError:
        return ""


def _write_tag(partial: Path, tag: str) -> None:
    path = _tag_path(partial)
    if tag and not tag.startswith("W/"):
        temporary = path.with_suffix(f".etag-{os.getpid()}")
        temporary.write_text(tag, encoding="latin-1")
        temporary.replace(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
