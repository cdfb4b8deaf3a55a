"""Downloads that are cut, killed, altered, gated: against a hub on loopback that does what it is told."""

import hashlib
import http.server
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backend.weights import download, store
from shared_protocol.errors import Cancelled, DiskFull, WeightsError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(1).randbytes(6_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = f"/owner/toy/resolve/{COMMIT}/folder/toy%20model.safetensors"


class Hub(http.server.ThreadingHTTPServer):
    """Answers the resolve address of one file; what it does is set by the attributes.

    cut     bytes after which each answer ends early; 0: never
    slow    seconds between pieces
    tag     ETag; another one than the partial file's makes it send the whole
    gated   token that is asked for
    moved   whether resolve redirects to storage, as the real hub does
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.cut, self.slow, self.tag, self.gated, self.moved = (
            CONTENT,
            0,
            0.0,
            '"v1"',
            "",
            False,
        )
        self.ranges = True
        self.failures = 0
        self.requests = []
        self.sent = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        hub = self.server
        hub.requests.append((self.path, dict(self.headers)))
        if hub.gated and self.path == FILE and self.headers.get("Authorization") != f"Bearer {hub.gated}":
            self.send_error(403 if self.headers.get("Authorization") == "Bearer other" else 401)
            return
        if hub.failures:
            hub.failures -= 1
            self.send_error(503)
            return
        if self.path == FILE and hub.moved:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_port}/storage?signed=1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path not in (FILE, "/storage?signed=1"):
            self.send_error(404)
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and hub.ranges and self.headers.get("If-Range", hub.tag) == hub.tag:
            start = int(wanted[1])
            if start >= len(hub.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(hub.content) - start))
        self.send_header("ETag", hub.tag)
        self.end_headers()
        end = min(len(hub.content), start + hub.cut) if hub.cut else len(hub.content)
        try:
            for at in range(start, end, 100_000):
                self.wfile.write(hub.content[at : min(at + 100_000, end)])
                hub.sent += min(at + 100_000, end) - at
                time.sleep(hub.slow)
        except ConnectionError:
            pass
        self.close_connection = True

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def hub():
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path, monkeypatch, hub):
    """Where the file of a model from the hub comes to lie."""
    for name in ("ORRERY_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(store, "CATALOG_PATH", tmp_path / "catalog.toml")
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.01)
    store.CATALOG_PATH.write_text(
        f'[toy]\nsummary = "toy"\nlicence = "none"\n[[toy.files]]\nname = "toy.safetensors"\n'
        f'size = {len(CONTENT)}\nsha256 = "{SHA256}"\nsources = [{{ repo = "owner/toy", '
        f'revision = "{COMMIT}", path = "folder/toy model.safetensors" }}]\n'
    )
    return tmp_path / "weights" / "toy" / "toy.safetensors"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_line_that_is_cut_again_and_again_sends_no_byte_twice(hub, target):
    hub.cut = 700_000
    store.pull("toy")
    assert target.read_bytes() == CONTENT
    assert len(hub.requests) == 9
    assert hub.sent < len(CONTENT) + 9 * 300_000
    ranges = [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in hub.requests]
    assert ranges == sorted(ranges)
    assert all(headers["If-Range"] == '"v1"' for _, headers in hub.requests[1:])
    assert _names(target.parent) == ["toy.safetensors"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_after_kill_9_the_next_process_goes_on_where_it_was(hub, target):
    hub.slow = 0.02
    code = (
        "from pathlib import Path; from backend.weights import store; "
        f"store.CATALOG_PATH = Path({str(store.CATALOG_PATH)!r}); store.pull('toy')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    partial = target.parent / f"{SHA256}.part"
    while not partial.exists() or partial.stat().st_size < 1_000_000:
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    have = partial.stat().st_size
    hub.slow = 0.0
    hub.requests.clear()
    store.pull("toy")
    assert target.read_bytes() == CONTENT
    assert [headers["Range"] for _, headers in hub.requests] == [f"bytes={have}-"]


def test_a_file_that_changed_on_the_server_is_sent_whole(hub, target):
    partial = target.parent / f"{SHA256}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1_000_000)
    partial.with_suffix(".etag").write_text('"v0"')
    store.pull("toy")
    assert target.read_bytes() == CONTENT
    assert len(hub.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_an_altered_partial_file_is_found_and_fetched_anew(hub, target, ranges):
    hub.ranges = ranges
    partial = target.parent / f"{SHA256}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:500_000] + b"x" + CONTENT[500_001:1_000_000])
    store.pull("toy")
    assert target.read_bytes() == CONTENT
    assert len(hub.requests) == (2 if ranges else 1)


def test_a_partial_file_that_is_too_long_is_started_anew(hub, target):
    partial = target.parent / f"{SHA256}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(len(CONTENT) + 5))
    with pytest.raises(WeightsError, match="more than the 6000000 bytes"):
        store.pull("toy")
    store.pull("toy")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!", CONTENT + b"!"])
def test_a_file_cut_short_or_altered_on_the_server_is_never_put_in_place(hub, target, content):
    hub.content = content
    with pytest.raises(WeightsError, match=r"owner/toy/folder/toy model\.safetensors: "):
        store.pull("toy")
    assert not target.exists()


def test_a_server_that_stumbles_is_asked_again(hub, target):
    hub.failures = 2
    store.pull("toy")
    assert target.read_bytes() == CONTENT


def test_a_gated_repository_is_answered_with_what_to_do(hub, target, monkeypatch):
    hub.gated = "hf_secret"
    with pytest.raises(WeightsError, match=r"gated.*accept its licence at .*/owner/toy.*HF_TOKEN"):
        store.pull("toy")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(WeightsError, match=r"does not know the token"):
        store.pull("toy")
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(
        WeightsError, match=r"does not open this repository \(HTTP 403\).*/owner/toy"
    ) as caught:
        store.pull("toy")
    assert "other" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    (Path(os.environ["HF_HOME"])).mkdir()
    (Path(os.environ["HF_HOME"]) / "token").write_text("hf_secret\n")  # as `huggingface-cli login` leaves it
    store.pull("toy")
    assert target.read_bytes() == CONTENT


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, target, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.gated, hub.moved = "hf_secret", True
    store.pull("toy")
    asked, stored = hub.requests
    assert asked[1]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in stored[1]


def test_the_cache_that_other_tools_share_is_looked_into_first(hub, target):
    cached = Path(os.environ["HF_HOME"]) / "hub" / "models--owner--toy" / "snapshots" / COMMIT / "folder"
    cached.mkdir(parents=True)
    (cached / "toy model.safetensors").write_bytes(CONTENT)
    store.pull("toy")
    assert (target.read_bytes(), hub.requests) == (CONTENT, [])
    target.unlink()
    (cached / "toy model.safetensors").write_bytes(bytes(len(CONTENT)))  # of the right size only
    store.pull("toy")
    assert target.read_bytes() == CONTENT
    assert len(hub.requests) == 1


def test_two_processes_bring_a_file_once(hub, target):
    hub.slow = 0.01
    threads = [threading.Thread(target=store.pull, args=("toy",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(hub.requests) == 1
    assert _names(target.parent) == ["toy.safetensors"]


def test_waiting_for_another_process_can_be_cancelled(hub, target):
    hub.slow = 0.05
    first = threading.Thread(target=store.pull, args=("toy",))
    first.start()
    while not hub.requests:
        time.sleep(0.01)
    cancelled = threading.Event()
    with pytest.raises(Cancelled):
        store.pull("toy", lambda done, total, text: cancelled.set() if "Another" in text else None, cancelled)
    hub.slow = 0.0
    first.join()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(hub, target, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(10**9, 0, 1000))
    with pytest.raises(DiskFull, match="needs 6 MiB, 0 MiB are free") as caught:
        store.pull("toy")
    assert caught.value.details == {"needed_bytes": len(CONTENT), "free_bytes": 1000}
    assert hub.requests == []


class _Usage:
    def __init__(self, total, used, free):
        self.total, self.used, self.free = total, used, free
