"""The daemon as its clients see it: a real process on loopback, real sockets, real SQLite, a fake worker."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import msgpack
import pytest
import zmq

from backend.client import Client
from shared_protocol import messages as m
from shared_protocol.endpoint import CONNECTION_FILE, Endpoint
from shared_protocol.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    MalformedMessage,
    NotReachable,
    StageFailed,
    Unauthorized,
    UnknownJob,
    WorkerCrashed,
)
from shared_protocol.transfer import checksum
from tests.support.daemon import PICTURE, ROOT, CuttingProxy, running_daemon, submit, wait_until
from tests.support.fake_worker import STAGES


@pytest.fixture
def raw(daemon):
    """A bare ZeroMQ socket that speaks plain msgpack: what a client in another language would do."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(daemon.endpoint.address)
    yield socket
    socket.close()
    context.term()


def _ask(socket, fields, *more):
    socket.send_multipart([b"ORRY\x01\x00", msgpack.packb(fields), *more])
    return msgpack.unpackb(socket.recv_multipart()[1])


def _history(client, job, after=0):
    """Stored events only: (number, kind, stage)."""
    return [(e.seq, e.kind, e.stage) for e in client.events(job, after) if e.kind != "step"]


# ---- connection


def test_hello_says_who_answers_and_what_it_can_do(client):
    reply = client.hello()
    assert (reply.product, reply.protocol, reply.recipes) == ("orrery", "1.1", ("fake",))
    assert reply.limits.images == 64
    engine = next(e for e in reply.engines if (e.stage, e.name) == ("splats", "gsplat"))
    assert engine.ready or (engine.reason and engine.remedy)
    assert client.ping().boot == reply.boot


def test_a_client_in_plain_msgpack_is_served(raw, daemon):
    token = daemon.endpoint.token
    reply = _ask(raw, {"type": "hello", "request": 1, "token": token, "client": "other", "later": [1]})
    assert (reply["type"], reply["request"], reply["product"]) == ("hello_reply", 1, "orrery")
    assert _ask(raw, {"type": "ping", "request": 2})["type"] == "pong"
    reply = _ask(raw, {"type": "teleport", "request": 3})
    assert (reply["request"], reply["failure"]["code"]) == (3, "unsupported")
    reply = _ask(raw, {"type": "get_job", "request": 4, "job": "../../etc/passwd"})
    assert (reply["request"], reply["failure"]["code"]) == (4, "malformed_message")
    assert _ask(raw, {"type": "pong", "request": 5, "boot": ""})["failure"]["code"] == "unsupported"


def test_without_the_right_token_nothing_is_answered(raw, daemon):
    assert _ask(raw, {"type": "list_jobs", "request": 1})["failure"]["code"] == "unauthorized"
    reply = _ask(raw, {"type": "hello", "request": 2, "token": "guess", "client": "x"})
    assert reply["failure"]["code"] == "unauthorized"
    assert daemon.endpoint.token not in str(reply)
    assert _ask(raw, {"type": "list_jobs", "request": 3})["failure"]["code"] == "unauthorized"
    with (
        Client(Endpoint(daemon.endpoint.address, "guess")) as stranger,
        pytest.raises(Unauthorized, match="token is wrong"),
    ):
        stranger.jobs()


def test_another_major_version_is_told_both_versions_at_once(raw):
    raw.send_multipart([b"ORRY\x09\x01", b"who knows what"])
    failure = msgpack.unpackb(raw.recv_multipart()[1])["failure"]
    assert (failure["code"], failure["details"]) == ("protocol_mismatch", {"theirs": "9.1", "ours": "1.1"})


def test_garbage_and_http_on_the_port_do_no_harm(daemon, client):
    host, port = daemon.endpoint.address.removeprefix("tcp://").split(":")
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(5000)):
        with socket.create_connection((host, int(port)), timeout=5) as stranger:
            stranger.sendall(data)
    assert client.ping()


def test_a_port_where_nothing_of_ours_listens_gives_a_clear_text(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "token")
        with (
            Client(endpoint, patience=0.1, reply_seconds=0.5) as client,
            pytest.raises(NotReachable, match="our protocol"),
        ):
            client.hello()


# ---- jobs


def test_a_job_runs_its_stages_tells_of_them_and_leaves_its_files(daemon, client, tmp_path):
    job = submit(client, {"all": {"size": 1000}, "two": {"milliseconds": 400}}, seed=1)
    events = list(client.events(job))
    stored = [(e.kind, e.stage) for e in events if e.kind != "step"]
    stages = [(kind, stage) for stage in STAGES for kind in ("started", "finished")]
    assert stored == [("queued", ""), ("running", ""), *stages, ("succeeded", "")]
    steps = [e for e in events if e.kind == "step" and e.stage == "two"]
    assert steps
    assert all(e.total == 40 and e.text == f"step {e.done}" for e in steps)
    record = client.job(job)
    assert (record.state, record.attempts, record.seq) == ("succeeded", 1, len(stored))
    paths = client.fetch(job, tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in paths) == sorted(
        ["empty.txt", *(f"{stage}/result.bin" for stage in STAGES)]
    )
    assert (tmp_path / "out" / "six" / "result.bin").stat().st_size == 1000
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


def test_submitting_again_never_makes_a_second_job(daemon, client):
    job = submit(client, seed=2)
    again = client.submit([PICTURE], recipe="fake", label="{}", seed=2, job=job)
    assert again.job == job
    with pytest.raises(Conflict):
        client.submit([PICTURE], recipe="fake", label="{}", seed=3, job=job)
    client.wait(job)
    assert client.submit([PICTURE], recipe="fake", label="{}", seed=2, job=job).state == "succeeded"
    assert sum(record.job == job for record in client.jobs(limit=1000)) == 1


def test_the_same_picture_again_reuses_every_stage(daemon, client):
    client.wait(submit(client, seed=4))
    ran = len(daemon.runs())
    job = submit(client, seed=4)
    client.wait(job)
    assert client.job(job).reused == STAGES
    assert len(daemon.runs()) == ran


def test_events_are_replayed_from_any_number_to_any_client(daemon, client):
    job = submit(client, seed=5)
    whole = _history(client, job)
    assert _history(client, job) == whole
    assert _history(client, job, after=4) == whole[4:]
    with daemon.client() as other:
        assert _history(other, job) == whole


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"recipe": "views_to_3d"}, InvalidInput, "cannot be submitted"),
        ({"quality": "best"}, InvalidInput, "quality 'best'"),
        ({"options": {"texture.colour": 3}}, InvalidInput, "texture.colour"),
        ({"options": {"orbit.engine": "magic"}}, InvalidInput, "no engine 'magic'"),
        ({"seed": -1}, InvalidInput, "seed"),
    ],
)
def test_what_cannot_run_is_refused_at_submission_in_words(client, fields, error, words):
    with pytest.raises(error, match=words):
        client.submit([PICTURE], **{"recipe": "fake", **fields})


def test_a_picture_that_was_not_uploaded_or_is_too_large_is_refused(client):
    client.hello()
    missing = m.InputFile("a.png", "ab" * 32, 10)
    with pytest.raises(InvalidInput, match="uploaded first"):
        client._call(m.Submit("0" * 32, "fake", (missing,)), m.Submitted)
    with pytest.raises(LimitExceeded, match="a picture of"):
        client._exchange(m.UploadStart("ab" * 32, 33 * 2**20), m.UploadReady)
    with pytest.raises(LimitExceeded):
        client._exchange(m.UploadStart("ab" * 32, 0), m.UploadReady)


def test_a_stage_that_fails_says_why_and_a_bug_says_nothing_of_the_machine(client):
    with pytest.raises(StageFailed, match=r"three cannot be done; expected a better picture\. Try another"):
        client.wait(submit(client, {"three": {"trouble": "fail"}}))
    job = submit(client, {"three": {"trouble": "bug"}})
    assert _history(client, job)[-1][1] == "failed"
    error = client.job(job).error
    assert error.code == "internal_error"
    assert "/" not in error.found
    assert client.wait(submit(client, seed=6)).state == "succeeded"


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_soon(daemon, client):
    running = submit(client, {"two": {"milliseconds": 20_000}}, seed=7)
    queued = submit(client, seed=8)
    wait_until(lambda: client.job(running).stage == "two")
    assert client.job(queued).position == 0
    assert client.cancel(queued).state == "cancelled"
    assert client.cancel(running).state == "running"
    assert [kind for _, kind, _ in _history(client, running)][-2:] == ["cancelling", "cancelled"]
    assert client.cancel(running).state == "cancelled"
    assert client.wait(submit(client, seed=9)).state == "succeeded"
    with pytest.raises(InvalidInput, match="it is cancelled"):
        client.manifest(running)


def test_unknown_names_are_unknown(client):
    for ask in (client.job, client.cancel, client.manifest):
        with pytest.raises(UnknownJob):
            ask("0" * 32)
    with pytest.raises(UnknownJob):
        client.read(m.ResultFile("x", 3, "0" * 64))


def test_a_client_that_never_reads_holds_nobody_up(daemon, client):
    job = submit(client, {"one": {"size": 20_000_000}}, seed=10)
    client.wait(job)
    file = next(f for f in client.manifest(job) if f.name == "one/result.bin")
    with daemon.client() as lazy:
        lazy.hello()
        lazy._send(m.Fetch(file.sha256, 0, 64 * 2**20))
        assert len(client.read(file)) == 20_000_000
        lazy.hello()
        lazy._send(m.Fetch(file.sha256, 0, 65 * 2**20))
        with pytest.raises(LimitExceeded):
            lazy._expect(lazy._request, m.Chunk)
    assert client.ping()


def test_many_clients_at_once_each_get_their_own_answers(daemon, client):
    job = submit(client, {"one": {"size": 3_000_000}}, seed=11)
    client.wait(job)
    files = client.manifest(job)
    found = []

    def read_all(number):
        with daemon.client(name=f"client {number}") as mine:
            found.append([len(mine.read(file)) for file in files])

    threads = [threading.Thread(target=read_all, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[file.size for file in files]] * 12


# ---- the process


def test_a_second_daemon_on_the_same_folder_says_who_is_there(daemon):
    done = subprocess.run(
        [sys.executable, "-m", "backend", "serve", "--state", str(daemon.state)],
        capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"process {daemon.process.pid}" in done.stderr
    assert daemon.endpoint.token not in done.stderr


def test_listening_beyond_this_machine_is_refused_in_words(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "backend", "serve", "--host", "0.0.0.0", "--state", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CURVE" in done.stderr


def test_sigterm_ends_it_cleanly_without_heavy_modules_and_keeps_the_queue(tmp_path):
    with running_daemon(tmp_path) as daemon:
        with daemon.client() as client:
            running = submit(client, {"two": {"milliseconds": 20_000}}, seed=1)
            queued = submit(client, seed=2)
            wait_until(lambda: client.job(running).stage == "two")
            worker = daemon.worker_pid()
        start = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - start < 10
        assert daemon.output.strip() == "heavy modules: []"
        assert not (daemon.state / CONNECTION_FILE).exists()
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
        daemon.start()
        with daemon.client() as client:
            assert client.job(queued).state == "queued"
            client.cancel(running)
            assert _history(client, running)[-1][1] == "cancelled"
            assert client.wait(queued).state == "succeeded"
        assert daemon.stop() == 0


def test_a_killed_daemon_forgets_nothing(tmp_path):
    """Killed with one job done, one running, one waiting; started again on the same folder."""
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        done = submit(client, {"one": {"size": 5_000_000}}, seed=1)
        client.wait(done)
        files = client.manifest(done)
        running = submit(client, {"four": {"trouble": "gate"}}, seed=2)
        waiting = submit(client, seed=3)
        wait_until(lambda: client.job(running).stage == "four")
        before = _numbers(client, running)
        daemon.kill()
        daemon.open_gate()
        daemon.start()
        assert client.wait(running).state == "succeeded"
        assert client.wait(waiting).state == "succeeded"
        assert client.job(done).state == "succeeded"
        assert [len(client.read(file)) for file in files] == [file.size for file in files]
        history = _history(client, running)
        assert history[: len(before)] == before
        assert [kind for _, kind, _ in history].count("requeued") == 1
        # "four" was interrupted and ran twice; what was finished was found in the store.
        assert [stage for _, kind, stage in history if kind == "reused"] == ["one", "two", "three"]
        assert daemon.runs().count("four") == 4


def test_a_download_through_a_line_that_is_cut_again_and_again_is_byte_identical(daemon, client):
    job = submit(client, {"one": {"size": 30_000_000}}, seed=12)
    client.wait(job)
    file = next(f for f in client.manifest(job) if f.name == "one/result.bin")
    proxy = CuttingProxy(daemon.endpoint.address)
    try:
        endpoint = Endpoint(proxy.address, daemon.endpoint.token)
        with Client(endpoint) as far:
            far.hello()
            proxy.cut_after = 12_000_000
            content = far.read(file)
    finally:
        proxy.close()
    assert content == client.read(file)
    assert proxy.cuts >= 2
    assert proxy.forwarded < file.size + proxy.cuts * 9 * 2**20  # at most a window is sent twice


def test_a_fetch_into_a_folder_goes_on_from_the_partial_file(daemon, client, tmp_path):
    job = submit(client, {"one": {"size": 9_000_000}}, seed=13)
    client.wait(job)
    file = next(f for f in client.manifest(job) if f.name == "one/result.bin")
    content = client.read(file)
    partial = tmp_path / f".partial-{job}"
    partial.mkdir()
    (partial / file.sha256).write_bytes(content[:5_000_000])
    seen = []
    client.fetch(job, tmp_path, lambda name, done, size: seen.append((name, done)))
    assert min(done for name, done in seen if name == file.name) > 5_000_000
    assert (tmp_path / "one" / "result.bin").read_bytes() == content
    partial.mkdir()
    (partial / file.sha256).write_bytes(b"x" * 5_000_000)  # a damaged one is found, and does not stay
    client.fetch(job, tmp_path)
    assert (tmp_path / "one" / "result.bin").read_bytes() == content


def test_content_that_is_lost_or_damaged_in_the_store_is_never_delivered_and_made_anew(daemon, client):
    job = submit(client, {"one": {"size": 1_000_000}}, seed=14)
    client.wait(job)
    lost, damaged = (f for f in client.manifest(job) if f.name in ("one/result.bin", "two/result.bin"))
    blobs = daemon.cache / "blobs"
    (blobs / lost.sha256[:2] / lost.sha256).unlink()
    (blobs / damaged.sha256[:2] / damaged.sha256).write_bytes(b"half")
    for file, words in ((lost, "was removed"), (damaged, "is damaged")):
        with pytest.raises(UnknownJob, match=words):
            client.read(file)
    client.wait(submit(client, {"one": {"size": 1_000_000}}, seed=14))
    for file in (lost, damaged):
        assert hashlib.sha256(client.read(file)).hexdigest() == file.sha256


def test_an_upload_goes_on_where_it_was_cut_and_wrong_content_is_refused(daemon, client):
    data = random.Random(3).randbytes(3 * 2**20)
    digest = hashlib.sha256(data).hexdigest()
    client.hello()
    transfer = client._send(m.UploadStart(digest, len(data)))
    assert client._expect(transfer, m.UploadReady).offset == 0
    client._send(m.UploadChunk(transfer, 0, checksum(data[: 2**20])), data[: 2**20])
    assert client._expect(transfer, m.UploadAck).offset == 2**20
    client.hello()  # a new connection; the daemon forgets the old one's transfers when it notices
    wait_until(lambda: client._exchange(m.UploadStart(digest, len(data)), m.UploadReady).offset in (0, 2**20))
    assert client.upload(data) == digest
    assert client._exchange(m.UploadStart(digest, len(data)), m.UploadReady).offset == len(data)
    transfer = client._send(m.UploadStart("ab" * 32, 3))
    client._expect(transfer, m.UploadReady)
    client._send(m.UploadChunk(transfer, 0, checksum(b"abc")), b"abc")
    with pytest.raises(MalformedMessage, match="checksum"):
        client._expect(transfer, m.UploadAck)


def _numbers(client, job):
    record = client.job(job)
    events = []
    for event in client.events(job):
        if event.kind != "step":
            events.append((event.seq, event.kind, event.stage))
        if event.seq >= record.seq:
            return events
    return events


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_worker_is_replaced_and_its_job_goes_on_from_the_last_finished_stage(daemon, client):
    ran, restarts = len(daemon.runs()), client.status().workers[0].restarts
    job = submit(client, {"four": {"trouble": "gate"}}, seed=20)
    wait_until(lambda: client.job(job).stage == "four")
    worker = daemon.worker_pid()
    os.kill(worker, signal.SIGKILL)
    daemon.open_gate()
    assert client.wait(job).state == "succeeded"
    record = client.job(job)
    assert (record.attempts, record.reused) == (2, ("one", "two", "three"))
    assert daemon.runs()[ran:] == ["one", "two", "three", "four", "four", "five", "six"]
    assert daemon.worker_pid() != worker
    assert client.status().workers[0].restarts == restarts + 1


def test_a_job_that_kills_every_worker_fails_and_the_next_one_runs(daemon, client):
    ran = len(daemon.runs())
    bad = submit(client, {"two": {"trouble": "crash"}}, seed=21)
    good = submit(client, seed=22)
    with pytest.raises(WorkerCrashed, match=r"code 7 during two, 2 times"):
        client.wait(bad)
    assert client.wait(good).state == "succeeded"
    assert daemon.runs()[ran:].count("two") == 3


def test_workers_that_are_killed_while_they_start_cost_no_job(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        killed = set()
        while len(killed) < 6:
            worker = client.status().workers[0]
            if worker.state == "starting" and worker.pid not in killed:
                os.kill(worker.pid, signal.SIGKILL)
                killed.add(worker.pid)
            elif worker.state == "idle":
                os.kill(worker.pid, signal.SIGKILL)
        record = client.wait(submit(client))
        assert (record.state, record.attempts) == ("succeeded", 1)


def test_when_no_worker_starts_the_jobs_fail_in_words_instead_of_waiting_for_ever(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        daemon.stop()
        daemon.start(worker="tests.support.there_is_no_such_worker")
        with pytest.raises(WorkerCrashed, match=r"does not start.*worker\.log"):
            client.wait(submit(client))
        daemon.stop()
        daemon.start()
        assert client.wait(submit(client)).state == "succeeded"


def test_a_daemon_started_for_another_process_ends_with_it(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    serve = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--exit-with-parent", str(parent.pid)]
        + ["--state", str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    line = serve.stdout.readline()
    assert line.startswith("orrery backend listening on tcp://127.0.0.1:")
    assert str(tmp_path / CONNECTION_FILE) in line
    parent.kill()
    parent.wait()
    assert serve.wait(15) == 0
    serve.stdout.close()


def test_an_idle_daemon_ends_when_told_so(tmp_path):
    command = [sys.executable, "-m", "backend", "serve", "--idle-exit", "0.5", "--state", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
