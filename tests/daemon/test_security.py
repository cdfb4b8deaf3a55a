"""Who may talk, and what may be sent: keys, tokens, hostile names and pictures, texts that tell too much."""

import io
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import zmq
from PIL import Image

from backend.client import Client, check_result_name
from backend.daemon import curve
from backend.inputs.picture import load_picture_bytes
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint, read_endpoint
from shared_protocol.errors import InvalidInput, LimitExceeded, NotReachable, OrreryError, Unauthorized
from tests.support.daemon import ROOT, CuttingProxy, submit, wait_until

pytestmark = pytest.mark.skipif(not zmq.has("curve"), reason="this ZeroMQ has no CURVE")


def _address_beyond_loopback():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks for the route only
        except OSError:
            return ""
        found = probe.getsockname()[0]
    return "" if found.startswith("127.") else found


HOST = _address_beyond_loopback()
needs_network = pytest.mark.skipif(not HOST, reason="this machine has no address beyond loopback")


def _free_port():
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


class Served:
    """`serve` on an address beyond loopback, with one client allowed: "laptop"."""

    def __init__(self, folder):
        self.state, self.port = folder / "state", _free_port()
        self.address = f"tcp://{HOST}:{self.port}"
        self.keygen("laptop", folder / "laptop")
        self.laptop = read_endpoint(folder / "laptop")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--host", HOST, "--port", str(self.port)]
            + ["--state", str(self.state)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"ORRERY_CACHE": str(folder / "cache")},
        )  # fmt: skip
        assert "listening" in self.process.stdout.readline()

    def keygen(self, *arguments):
        name, *out = arguments
        command = [sys.executable, "-m", "backend", "keygen", name, "--state", str(self.state)]
        command += ["--address", self.address, "-o", str(out[0])] if out else ["--revoke"]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("curve"))
    yield served
    served.process.kill()
    served.process.wait()
    served.process.stdout.close()


@needs_network
def test_a_client_with_an_allowed_key_is_let_in_by_its_keys_name(served):
    with Client(served.laptop, name="somebody else") as client:
        assert client.hello().product == "orrery"
        assert client.status().counters["sessions"] >= 1
    with Client(state=served.state) as local:  # and on this machine the token does, as ever
        assert local.ping()


@needs_network
@pytest.mark.parametrize("kind", ["plain", "wrong server key", "unknown key"])
def test_a_client_without_the_right_keys_is_told_so_within_five_seconds(served, kind):
    stranger = curve.new_pair()
    endpoint = {
        "plain": Endpoint(served.address, read_endpoint(served.state).token),
        "wrong server key": Endpoint(
            served.address, server_key=stranger.public, public_key=served.laptop.public_key,
            secret_key=served.laptop.secret_key,
        ),
        "unknown key": Endpoint(
            served.address, server_key=served.laptop.server_key, public_key=stranger.public,
            secret_key=stranger.secret,
        ),
    }[kind]  # fmt: skip
    start = time.monotonic()
    with Client(endpoint) as client, pytest.raises((Unauthorized, NotReachable)) as caught:
        client.jobs()
    assert time.monotonic() - start < 5
    assert "CURVE" in str(caught.value)
    assert "keygen" in str(caught.value)


@needs_network
def test_a_revoked_key_is_let_in_no_more_not_even_on_an_open_connection(served, tmp_path):
    served.keygen("tablet", tmp_path / "tablet")
    endpoint = read_endpoint(tmp_path / "tablet")
    with Client(endpoint) as client:
        assert client.ping()
        served.keygen("tablet")

        def refused():
            try:
                client.ping()
            except Unauthorized as error:
                return error

        assert wait_until(refused).details["reason"] == "revoked"
    with Client(endpoint) as client, pytest.raises(Unauthorized, match="CURVE"):
        client.ping()


@needs_network
def test_nobody_on_the_line_reads_along(served):
    proxy = CuttingProxy(served.address)
    proxy.watching = True
    try:
        endpoint = Endpoint(**{**served.laptop.__dict__, "address": proxy.address})
        with Client(endpoint) as client:
            client.hello()
            client.upload(b"a very private picture" * 1000)
        assert len(proxy.seen) > 22_000
        for text in (b"private", b"hello", b"orrery", b"upload", b"laptop"):
            assert text not in proxy.seen
    finally:
        proxy.close()


@needs_network
def test_listening_beyond_this_machine_without_keys_is_refused_with_the_command_to_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "backend", "serve", "--host", HOST, "--port", "7421"]
        + ["--state", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"python -m backend keygen NAME --address tcp://{HOST}:7421" in done.stderr


def test_key_files_are_private_and_names_cannot_leave_their_folder(tmp_path):
    pair = curve.create_server_pair(tmp_path)
    assert curve.create_server_pair(tmp_path) == pair
    curve.allow(tmp_path, "laptop", curve.new_pair().public)
    for path in (tmp_path / "keys").rglob("*.*"):
        assert path.stat().st_mode & 0o077 == 0
    for name in ("../../etc/cron", "a/b", "", ".", "..", "x" * 60, "C:evil", "a\0b"):
        with pytest.raises(InvalidInput):
            curve.allow(tmp_path, name, pair.public)
    assert curve.AllowList(tmp_path).names() == ["laptop"]
    assert curve.AllowList(tmp_path).name_of("") == ""


# ---- what is sent


TRAVERSALS = (
    "../secret", "/etc/passwd", "a/../../b", "C:\\Windows\\x", "..\\..\\x", "\\\\server\\share\\x", "~/x",
    "a\0b", "nul:", "", ".", "..", "//x", "a/..", "./../x",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TRAVERSALS if name != "~/x"])
def test_a_results_name_never_leads_out_of_its_folder(name):
    with pytest.raises(InvalidInput):
        check_result_name(name)


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_pictures_name_is_a_label_and_never_a_path(daemon, name):
    before = {path for path in daemon.folder.rglob("*") if path.is_dir()}
    with daemon.client() as client:
        job = client.submit(
            [(name, b"not decoded by the fake worker")], recipe="fake", label="{}", seed=7
        ).job
        assert client.wait(job).state == "succeeded"
        assert all(".." not in file.name for file in client.manifest(job))
    new = {path for path in daemon.folder.rglob("*") if path.is_dir()} - before
    ours = [daemon.folder / name for name in ("cache", "state/uploads", "state/logs")]
    assert all(any(path.is_relative_to(folder) for folder in ours) for path in new)


def test_no_error_tells_a_path_or_a_secret_of_the_server(daemon):
    token = daemon.endpoint.token
    told = []
    with daemon.client() as client:
        client.hello()
        digest, missing = "ab" * 32, "0" * 32
        one = (m.InputFile("a", digest, 1),)
        asks = [
            m.GetJob(missing), m.Cancel(missing), m.Move(missing, 0), m.GetManifest(missing), m.Fetch(digest),
            m.GetLog(missing), m.GetPreview(missing, "x"), m.Locate(digest), m.Prove("x"),
            m.UploadStart(digest, 0), m.UploadStart(digest, 2**40), m.Subscribe(missing),
            m.Submit(missing, "fake", ()), m.Submit(missing, "../x", one),
            m.Submit(missing, "fake", one, "x"),
            m.Submit(missing, "fake", one, options={"surface.engine": "os:system"}),
            m.Submit(missing, "fake", one, options={"__class__.x": 1}),
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(OrreryError) as caught:
                client._exchange(ask, m.Pong)
            told.append(str(caught.value) + str(caught.value.details))
        for trouble in ("bug", "fail", "memory", "crash"):
            with pytest.raises(OrreryError) as caught:
                client.wait(submit(client, {"two": {"trouble": trouble}}, seed=8))
            told.append(str(caught.value) + str(caught.value.details))
    text = "\n".join(told)
    for secret in (token, str(daemon.folder), str(ROOT), "Traceback"):
        assert secret not in text
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|var)/", text)


# ---- hostile pictures (decoded in the worker; the header is looked at first)


def _png(width, height, data=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _saved(kind, **options):
    buffer = io.BytesIO()
    options.pop("image", Image.fromarray(np.full((64, 48, 3), 90, np.uint8))).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (_png(30_000, 30_000, zlib.compress(bytes(1000))), LimitExceeded),
        (_png(2**31 - 1, 2**31 - 1), LimitExceeded),
        (_png(9000, 9000, zlib.compress(bytes(81_009_000), 9)), LimitExceeded),
        (_png(0, 100), InvalidInput),
        (_saved("PNG")[:-200], InvalidInput),
        (_saved("JPEG")[:200], InvalidInput),
        (b"GIF89a" + b"\xff" * 100, InvalidInput),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", InvalidInput),
        (b"PK\x03\x04" + bytes(100), InvalidInput),
        (b"\x80\x04\x95.cos\nsystem\n", InvalidInput),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", InvalidInput),
    ],
    ids=["900 MP", "2 Gpixel side", "81 MP in few bytes", "no width", "cut png", "cut jpeg", "gif",
         "postscript", "zip", "pickle", "svg"],
)  # fmt: skip
def test_bombs_and_wrong_files_are_refused_before_they_cost_memory(data, error):
    with pytest.raises(error):
        load_picture_bytes(data, "a.png")


def test_odd_but_honest_pictures_are_read():
    deep = Image.fromarray((np.linspace(0, 65535, 64 * 48).reshape(64, 48)).astype(np.uint16))
    cmyk = Image.new("CMYK", (48, 64), (60, 20, 0, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for data, shape in (
        (_saved("PNG", image=deep), (64, 48)),
        (_saved("JPEG", image=cmyk), (64, 48)),
        (_saved("JPEG", exif=exif), (48, 64)),
    ):
        assert load_picture_bytes(data, "a").picture.rgba.shape[:2] == shape


def test_the_limits_of_a_job_are_checked_at_submission(daemon):
    with daemon.client() as client:
        client.hello()
        one = m.InputFile("a.png", client.upload(b"x" * 100), 100)
        with pytest.raises(OrreryError):
            client._exchange(m.Submit("1" * 32, "fake", (one,) * 65), m.Submitted)
        huge = m.InputFile("a.png", "cd" * 32, 300 * 2**20)
        with pytest.raises(LimitExceeded, match="in all"):
            client._exchange(m.Submit("1" * 32, "fake", (huge, huge)), m.Submitted)
