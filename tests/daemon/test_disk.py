"""A full disk: the job fails with numbers, the daemon answers on, nothing half-written is ever seen."""

import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from backend.pipeline import artifacts
from backend.pipeline.artifacts import ArtifactStore, check_room
from backend.pipeline.values import Exports
from shared_protocol.errors import DiskFull
from tests.support.daemon import running_daemon, submit, wait_until

_Usage = namedtuple("_Usage", "total used free")


def test_a_reserve_is_kept_free(tmp_path, monkeypatch):
    usage = _Usage(100 << 30, 0, (2 << 30) + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_room(tmp_path / "not" / "there", 100)
    with pytest.raises(DiskFull, match=r"2048 MiB are free, 2048 MiB of them are kept free") as caught:
        check_room(tmp_path, 101)
    assert caught.value.details == {
        "needed_bytes": 101, "free_bytes": usage.free, "reserve_bytes": 2 << 30
    }  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(100 << 20, 0, 6 << 20))
    check_room(tmp_path, 1 << 20)  # of a small disk a twentieth
    store = ArtifactStore(tmp_path)
    with pytest.raises(DiskFull):
        store.save("ab" * 32, Exports({"big": bytes(2 << 20)}))
    with pytest.raises(DiskFull):
        store.save_blob(bytes(2 << 20))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("writes", range(4))
def test_whichever_write_fails_no_half_artifact_is_seen(tmp_path, monkeypatch, writes):
    store, calls = ArtifactStore(tmp_path), []
    real = os.fsync

    def fail(handle):
        calls.append(handle)
        if len(calls) > writes:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(artifacts.os, "fsync", fail)
    value = Exports({"a": b"1" * 1000, "b": b"2" * 1000})
    if writes < 3:
        with pytest.raises(DiskFull):
            store.save("ab" * 32, value)
        assert store.find("ab" * 32) is None
    else:
        store.save("ab" * 32, value)
        assert store.find("ab" * 32) is not None
    for path in (tmp_path / "blobs").glob("*/*"):
        assert path.stat().st_size == 1000
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path, leave: int) -> Path:
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        file.write(bytes(max(free - leave, 0)))
    return filler


def test_a_job_on_a_full_disk_fails_with_numbers_and_the_next_one_runs_when_there_is_room(small_disk):
    with running_daemon(small_disk) as daemon, daemon.client() as client:
        client.wait(submit(client))
        job = submit(client, {"two": {"size": 30_000_000}}, seed=1)
        with pytest.raises(DiskFull, match="MiB are free") as caught:
            client.wait(job)
        assert caught.value.details["needed_bytes"] == 30_000_000
        assert str(daemon.cache) not in str(caught.value)
        assert client.wait(submit(client, seed=2)).state == "succeeded"


def test_a_disk_without_a_byte_left_stops_nothing_but_the_work(small_disk):
    with running_daemon(small_disk) as daemon, daemon.client() as client:
        running = submit(client, {"three": {"milliseconds": 600}}, seed=1)
        wait_until(lambda: client.job(running).stage == "three")
        filler = _fill(small_disk, 0)
        with pytest.raises(DiskFull):
            client.upload(os.urandom(100_000))
        for _ in range(200):  # until the write-ahead log is full too
            try:
                submit(client, {"all": {}}, seed=2)
            except DiskFull as error:
                assert "MiB are free" in str(error)
                break
        assert client.ping()
        assert client.status().disk_free_bytes < 2**20
        filler.unlink()
        wait_until(lambda: client.job(running).state in ("failed", "succeeded"))
        error = client.job(running).error
        assert error is None or error.code == "disk_full"
        assert client.wait(submit(client, seed=3)).state == "succeeded"
        daemon.kill()
        daemon.start()
        assert client.wait(submit(client, seed=4)).state == "succeeded"
