"""Transfers when things go wrong: kills, cuts, flipped bits, readers that stop, other machines."""

import hashlib
import os
import random
import threading
import time
from pathlib import Path

import pytest

from backend.client import Client
from backend.daemon.transfers import MAX_CONNECTION_CREDIT, PARK_SECONDS, Transfers
from backend.daemon.wire import Peer
from backend.pipeline.artifacts import ArtifactStore
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint
from shared_protocol.errors import AccessDenied, LimitExceeded, Unauthorized, Unsupported
from tests.support.daemon import CuttingProxy, running_daemon, submit

SIZE = 40_000_000


@pytest.fixture(scope="module")
def file(daemon):
    """A result of 40 MB."""
    with daemon.client() as client:
        job = submit(client, {"one": {"size": SIZE}}, seed=1)
        client.wait(job)
        return next(f for f in client.manifest(job) if f.name == "one/result.bin")


@pytest.fixture
def proxy(daemon):
    proxy = CuttingProxy(daemon.endpoint.address)
    yield proxy
    proxy.close()


def _through(proxy, daemon):
    return Client(Endpoint(proxy.address, daemon.endpoint.token))


@pytest.mark.parametrize("most", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_of_the_daemon_during_one_download_change_no_byte(tmp_path, most):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        job = submit(client, {"one": {"size": SIZE}}, seed=1)
        client.wait(job)
        file = next(f for f in client.manifest(job) if f.name == "one/result.bin")
        kills, offsets = [], []

        def on_bytes(name, done, size):
            offsets.append(done)
            if name == file.name and done > SIZE * (len(kills) + 1) / (most + 1) and len(kills) < most:
                kills.append(done)
                daemon.kill()
                daemon.start()

        client._sees_store = lambda: False  # through the connection, not from the store's files
        client.fetch(job, tmp_path / "out", on_bytes)
        content = (tmp_path / "out" / "one" / "result.bin").read_bytes()
        assert (len(kills), hashlib.sha256(content).hexdigest()) == (most, file.sha256)


def test_a_flipped_bit_is_found_and_only_its_chunk_is_fetched_again(daemon, client, file, proxy):
    for check in ("sum64", "crc32"):
        with _through(proxy, daemon) as far:
            far.hello()
            if check == "crc32":
                far.welcome = m.HelloReply(**{**far.welcome.__dict__, "features": ()})
            proxy.flip_at, before = 20_000_000, proxy.forwarded
            assert hashlib.sha256(far.read(file)).hexdigest() == file.sha256
            assert proxy.forwarded - before < SIZE + 10 * 2**20  # the window at most came twice
    assert proxy.flipped == 2


def test_a_reader_that_stops_costs_its_window_and_nobody_else_anything(daemon, client, file):
    client.ping()
    before = client.status().memory_bytes
    lazy = [daemon.client() for _ in range(4)]
    try:
        for one in lazy:
            one.hello()
            one._send(m.Fetch(file.sha256))
        start = time.monotonic()
        assert hashlib.sha256(client.read(file)).hexdigest() == file.sha256
        assert time.monotonic() - start < 20
        status = client.status()
        assert status.counters["transfers"] >= 4
        if before:
            assert status.memory_bytes - before < 4 * 8 * 2**20 + 16 * 2**20
    finally:
        for one in lazy:
            one.close()


def test_a_slow_reader_gets_everything(daemon, file):
    with daemon.client() as slow:
        slow.hello()
        transfer = slow._send(m.Fetch(file.sha256, SIZE - 2_000_000, 2**18))
        data = b""
        while len(data) < 2_000_000:
            chunk, buffer = slow._expect_alive(transfer, m.Chunk)
            assert chunk.offset == SIZE - 2_000_000 + len(data)
            data += buffer
            time.sleep(0.05)
            slow._send(m.Credit(transfer, len(buffer)))
        assert len(data) == 2_000_000


def test_a_subscriber_that_never_reads_costs_little_and_delays_nobody(daemon, client):
    job = submit(client, {"all": {"milliseconds": 300}}, seed=2)
    before = client.status().memory_bytes
    lazy = [daemon.client() for _ in range(3)]
    try:
        for one in lazy:
            one.hello()
            for _ in range(40):
                one._send(m.Subscribe(job, 0, True))
        events = [event.kind for event in client.events(job)]
        assert events[-1] == "succeeded"
        if before:
            assert client.status().memory_bytes - before < 3 * 2**20 + 8 * 2**20
        assert client.ping()
    finally:
        for one in lazy:
            one.close()


def test_a_client_that_asks_on_without_reading_is_dropped(daemon, client):
    rude = daemon.client()
    try:
        rude.hello()
        rude._socket.setsockopt(17, 2**12)
        for _ in range(20_000):
            rude._send(m.ListJobs())
        assert client.ping()
        assert client.status().memory_bytes < 300 * 2**20
    finally:
        rude.close()


def test_events_are_the_same_to_a_client_that_comes_and_goes_as_to_one_that_stays(daemon, client):
    generator = random.Random(3)
    job = submit(client, {"all": {"milliseconds": 250}}, seed=3)
    seen, after = [], 0
    for _ in range(20):
        with daemon.client() as passing:
            leave = time.monotonic() + generator.random() * 0.1
            for event in passing.events(job, after):
                if event.kind != "step":
                    assert event.seq == after + 1
                    seen.append((event.seq, event.kind, event.stage))
                    after = event.seq
                if event.kind in m.TERMINAL or time.monotonic() > leave:
                    break
            if event.kind in m.TERMINAL:
                break
    stayed = [(e.seq, e.kind, e.stage) for e in client.events(job) if e.kind != "step"]
    with daemon.client() as last:
        seen += [(e.seq, e.kind, e.stage) for e in last.events(job, after) if e.kind != "step"]
    assert seen == stayed


# ---- credit


@pytest.fixture
def transfers(tmp_path):
    store = ArtifactStore(tmp_path)
    digest = store.save_blob(bytes(3_000_000))
    transfers = Transfers(store, tmp_path / "uploads", m.Limits())
    yield transfers, digest
    transfers.close()


PEER = Peer(0, b"\0peer")


def test_a_transfer_without_credit_is_parked_after_a_minute(transfers):
    transfers, digest = transfers
    transfers.fetch((PEER, 1), m.Fetch(digest, 0, 2**20), 3_000_000, now=0.0)
    _, data = transfers.next_chunk((PEER, 1))
    transfers.sent((PEER, 1), len(data), now=10.0)
    assert transfers.sendable() == []
    transfers.park(10.0 + PARK_SECONDS)
    assert len(transfers) == 1
    transfers.park(10.1 + PARK_SECONDS)
    assert len(transfers) == 0
    transfers.credit((PEER, 1), 100, now=80.0)  # crossed on the way: no error
    transfers.fetch((PEER, 2), m.Fetch(digest, 2**20), 3_000_000, now=90.0)  # and taken up again
    assert transfers.next_chunk((PEER, 2))[0].offset == 2**20


def test_the_credit_of_a_connection_has_a_limit_over_all_its_transfers(transfers):
    transfers, digest = transfers
    for number in range(8):
        transfers.fetch((PEER, number), m.Fetch(digest, 0, MAX_CONNECTION_CREDIT // 8), 3_000_000, now=0.0)
    with pytest.raises(LimitExceeded, match="of this connection"):
        transfers.fetch((PEER, 8), m.Fetch(digest, 0, 1), 3_000_000, now=0.0)
    with pytest.raises(LimitExceeded):
        transfers.credit((PEER, 0), 1, now=0.0)
    transfers.fetch((Peer(0, b"\0other"), 8), m.Fetch(digest, 0, 1), 3_000_000, now=0.0)
    with pytest.raises(Unsupported, match="checksum 'md5'"):
        transfers.fetch((Peer(0, b"\0other"), 9), m.Fetch(digest, 0, 1, "md5"), 3_000_000, now=0.0)


# ---- the same host


def test_on_the_same_host_files_are_copied_not_sent(daemon, client, file, tmp_path):
    job = client.jobs(limit=1000)[-1].job
    chunks = client.status().counters.get("chunks", 0)
    client.fetch(job, tmp_path)
    assert hashlib.sha256((tmp_path / "one" / "result.bin").read_bytes()).hexdigest() == file.sha256
    assert client.status().counters.get("chunks", 0) == chunks


def test_without_proof_no_place_is_told(client, file):
    client.hello()
    with pytest.raises(Unauthorized, match="not proved"):
        client._exchange(m.Locate(file.sha256), m.Located)
    client._exchange(m.SameHost(), m.NonceFile)
    with pytest.raises(Unauthorized, match="nonce"):
        client._exchange(m.Prove("guess"), m.Proved)
    with pytest.raises(Unauthorized, match="not proved"):
        client._exchange(m.Locate(file.sha256), m.Located)


@pytest.mark.parametrize("trouble", ["elsewhere", "other text", "not ours", "copy differs"])
def test_where_the_store_is_not_seen_chunks_are_fetched_instead(
    daemon, client, file, tmp_path, trouble, monkeypatch
):
    """Another machine or mount, a wrong one of the same name, missing rights, a copy that is not whole."""
    job = client.jobs(limit=1000)[-1].job
    client.hello()
    nonce = client._exchange(m.SameHost(), m.NonceFile).path
    if trouble == "elsewhere":
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *a: real("/nonexistent" if path == nonce else path, *a))
    elif trouble == "other text":
        other = tmp_path / "other"
        other.write_text("0" * 32)
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *a: real(other if path == nonce else path, *a))
    elif trouble == "not ours":

        def refuse(path, *arguments):
            if path == nonce:
                raise PermissionError(13, "not yours")
            return real_open(path, *arguments)

        real_open = os.open
        monkeypatch.setattr(os, "open", refuse)
    else:
        monkeypatch.setattr("shutil.copyfile", lambda source, target: Path(target).write_bytes(b"half"))
    chunks = client.status().counters.get("chunks", 0)
    out = tmp_path / "out"
    client.fetch(job, out)
    assert hashlib.sha256((out / "one" / "result.bin").read_bytes()).hexdigest() == file.sha256
    assert client.status().counters["chunks"] > chunks


def test_the_nonce_file_is_private_and_goes_with_the_daemon(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        client.hello()
        path = client._exchange(m.SameHost(), m.NonceFile).path
        assert os.stat(path).st_mode & 0o077 == 0
        daemon.stop()
        assert not os.path.exists(path)


def test_fifty_clients_read_at_once_and_one_that_never_reads_is_no_hindrance(daemon, client, file):
    lazy = daemon.client()
    lazy.hello()
    lazy._send(m.Fetch(file.sha256, 0, 64 * 2**20))
    small = m.ResultFile("small", 0, hashlib.sha256(b"").hexdigest())
    done = []

    def read(number):
        with daemon.client(name=f"reader {number}", reply_seconds=30.0) as mine:
            mine.read(small)
            transfer = mine._send(m.Fetch(file.sha256, SIZE - 2**20, 2**20))
            done.append(len(mine._expect_alive(transfer, m.Chunk)[1]))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lazy.close()
    assert done == [2**20] * 50


def test_an_unwritable_store_is_told_without_its_path(tmp_path):
    store = ArtifactStore(tmp_path)
    transfers = Transfers(store, tmp_path / "uploads", m.Limits())
    (tmp_path / "uploads").write_text("a file in the way")
    with pytest.raises(AccessDenied) as caught:
        transfers.upload((PEER, 1), m.UploadStart("ab" * 32, 10), now=0.0)
    assert str(tmp_path) not in str(caught.value)
