"""The daemon's Unix socket: used by clients that see it, gone with its daemon, replaced after a kill -9."""

import hashlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from backend.client import Client
from shared_protocol.errors import NotReachable, Unauthorized
from tests.support.daemon import running_daemon, submit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets are for Linux and macOS")


@pytest.fixture
def daemon():
    with tempfile.TemporaryDirectory() as folder, running_daemon(Path(folder)) as daemon:
        yield daemon


def _way(client) -> str:
    return client._socket.getsockopt_string(zmq.LAST_ENDPOINT).partition(":")[0]


def test_a_job_and_its_results_come_over_the_unix_socket_and_over_tcp_alike(daemon):
    found = []
    with (
        daemon.client() as near,
        Client(replace(daemon.endpoint, folder="")) as far,
    ):
        job = submit(near, {"all": {"size": 5_000_000}})
        assert near.wait(job).state == "succeeded"
        for client in (near, far):
            contents = {file.name: client.read(file) for file in client.manifest(job)}
            assert all(
                hashlib.sha256(contents[file.name]).hexdigest() == file.sha256
                for file in client.manifest(job)
            )
            found.append(contents)
        assert (_way(near), _way(far)) == ("ipc", "tcp")
    assert found[0] == found[1]
    assert found[0]


def test_only_its_owner_can_reach_the_socket_and_it_wants_the_token(daemon):
    path = Path(daemon.endpoint.nearest.removeprefix("ipc://"))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0
    with Client(replace(daemon.endpoint, token="guess")) as stranger, pytest.raises(Unauthorized):
        stranger.status()


def test_a_client_on_the_unix_socket_finds_the_daemon_again_after_a_kill(daemon):
    with daemon.client() as client:
        assert client.status().pid == daemon.process.pid
        old = daemon.endpoint.nearest
        daemon.kill()
        assert Path(old.removeprefix("ipc://")).is_socket(), "a killed daemon cannot clean up"
        daemon.start()
        assert client.status().pid == daemon.process.pid
        assert _way(client) == "ipc"
        assert daemon.endpoint.nearest != old
        assert [path.name for path in daemon.state.glob("*.sock")] == [Path(daemon.endpoint.nearest).name]


def test_a_daemon_that_ends_leaves_no_socket(daemon):
    with daemon.client() as client:
        client.status()
    assert daemon.stop() == 0
    assert list(daemon.state.glob("*.sock")) == []
    with Client(state=daemon.state, patience=0) as client, pytest.raises(NotReachable):
        client.status()
