"""Weights: catalogue, sources in order, checksums, cancel; over loopback HTTP and with a real pip."""

import base64
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from backend.weights import store
from shared_protocol.errors import Cancelled, InvalidInput, WeightsError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/good": CONTENT, "/bad": CONTENT[::-1], "/long": CONTENT * 2, "/short": CONTENT[:100]}
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(body[self.path])
        except ConnectionError:
            return  # the client had enough

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """Returns a function that writes a catalogue with one model and the given sources."""
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("ORRERY_OFFLINE", raising=False)
    path = tmp_path / "catalog.toml"
    monkeypatch.setattr(store, "CATALOG_PATH", path)

    def write(*sources: str) -> Path:
        path.write_text(
            f'[toy]\nsummary = "toy"\nlicence = "none"\n[[toy.files]]\nname = "toy.onnx"\n'
            f'size = {len(CONTENT)}\nsha256 = "{SHA256}"\nsources = [{", ".join(sources)}]\n'
        )
        return tmp_path / "weights" / "toy" / "toy.onnx"

    return write


def wheelhouse(folder: Path, member: str = "toypack/toy.onnx") -> None:
    """A wheel that carries CONTENT, as pip wants it."""
    folder.mkdir()
    info = "toypack-1.0.dist-info"
    files = {
        member: CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toypack\nVersion: 1.0\nRequires-Python: >=99\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode()
    with zipfile.ZipFile(folder / "toypack-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def local_pip(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "wheels"


def test_pull_from_a_url_reports_progress_and_verifies(server, catalogue):
    path = catalogue(f'{{url = "{server}/good"}}')
    assert not store.weights_present("toy")
    assert store.verify("toy") == "missing"
    steps = []
    assert store.pull("toy", lambda *step: steps.append(step)) == path.parent
    assert steps[-1][:2] == (len(CONTENT), len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert store.verify("toy") == "ok"
    assert store.weights_present("toy")


def test_second_source_is_used_when_the_first_gives_wrong_bytes(server, catalogue):
    path = catalogue(
        *(f'{{url = "{server}/{name}"}}' for name in ("missing", "bad", "long", "short", "good"))
    )
    store.pull("toy")
    assert path.read_bytes() == CONTENT


def test_error_names_every_source_and_why_it_failed(server, catalogue):
    path = catalogue(*(f'{{url = "{server}/{name}"}}' for name in ("missing", "bad", "long", "short")))
    with pytest.raises(WeightsError) as caught:
        store.pull("toy")
    message = str(caught.value)
    for part in (
        "/missing: ",
        "Not Found",
        "/bad: the sha256 checksum differs",
        "/long: more than",
        "100 bytes",
    ):
        assert part in message
    assert [p.suffix for p in path.parent.iterdir()] == [".part"]  # of the one that ended early


def test_unreachable_server_is_a_reason_not_a_crash(catalogue):
    catalogue('{url = "http://127.0.0.1:9/x"}')
    with pytest.raises(WeightsError, match=r"127.0.0.1:9/x: .*refused"):
        store.pull("toy")


def test_file_inside_a_wheel_is_taken_out_even_if_the_wheel_is_for_another_python(catalogue, local_pip):
    wheelhouse(local_pip)
    path = catalogue('{wheel = "toypack==1.0", member = "toypack/toy.onnx"}')
    store.pull("toy")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["toy.onnx"]


def test_wheel_without_the_member_and_absent_wheel_are_reasons(catalogue, local_pip):
    wheelhouse(local_pip, member="toypack/other.onnx")
    catalogue(
        '{wheel = "toypack==1.0", member = "toypack/toy.onnx"}', '{wheel = "absentpack==2.0", member = "x"}'
    )
    with pytest.raises(WeightsError) as caught:
        store.pull("toy")
    assert "the wheel has no toypack/toy.onnx" in str(caught.value)
    assert "pip download failed" in str(caught.value)


def test_offline_switch_refuses_the_network(server, catalogue, monkeypatch):
    path = catalogue(f'{{url = "{server}/good"}}')
    monkeypatch.setenv("ORRERY_OFFLINE", "1")
    with pytest.raises(WeightsError, match="ORRERY_OFFLINE=1 forbids the network"):
        store.pull("toy")
    assert not path.exists()


def test_cancel_during_download_keeps_the_partial_file(server, catalogue):
    path = catalogue(f'{{url = "{server}/good"}}')
    cancelled = threading.Event()
    with pytest.raises(Cancelled):
        store.pull("toy", lambda done, total, text: cancelled.set(), cancelled)
    partial = path.parent / f"{SHA256}.part"
    assert 0 < partial.stat().st_size < len(CONTENT)
    assert not path.exists()
    steps = []
    store.pull("toy", lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["toy.onnx"]


def test_cancel_during_pip_stops_it(catalogue, local_pip):
    wheelhouse(local_pip)
    path = catalogue('{wheel = "toypack==1.0", member = "toypack/toy.onnx"}')
    cancelled = threading.Event()
    with pytest.raises(Cancelled):
        store.pull("toy", lambda done, total, text: cancelled.set(), cancelled)
    assert list(path.parent.iterdir()) == []


def test_damaged_file_is_noticed_and_replaced(server, catalogue):
    path = catalogue(f'{{url = "{server}/good"}}')
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[::-1])
    assert store.weights_present("toy")  # the quick look sees only the size
    assert store.verify("toy") == "damaged"
    store.pull("toy")
    assert store.verify("toy") == "ok"


def test_present_file_needs_no_network(catalogue, monkeypatch):
    path = catalogue('{url = "http://127.0.0.1:9/x"}')
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("ORRERY_OFFLINE", "1")
    store.pull("toy")


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(InvalidInput, match="one of u2netp"):
        store.pull("nonsense")


def test_catalogue_is_complete():
    for entry in store.catalog():
        assert entry.summary and entry.licence and entry.files
        for file in entry.files:
            assert file.layout or (file.size > 0 and len(file.sha256) == 64)
            assert file.sources or file.manual
            assert all(bool(s.url) + bool(s.wheel and s.member) + bool(s.repo) == 1 for s in file.sources)
            assert all(not s.wheel or "==" in s.wheel for s in file.sources)
