"""The connection file: private, atomic, never stale."""

import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from shared_protocol.endpoint import (
    CONNECTION_FILE,
    Endpoint,
    local_socket,
    process_alive,
    read_endpoint,
    remove_endpoint,
    state_folder,
    write_endpoint,
)
from shared_protocol.errors import NotReachable

ENDPOINT = Endpoint("tcp://127.0.0.1:4242", "secret", os.getpid(), "b00t", "0.1.0")


def test_what_was_written_is_read(tmp_path):
    write_endpoint(ENDPOINT, tmp_path / "state")
    assert read_endpoint(tmp_path / "state") == ENDPOINT


@pytest.mark.skipif(sys.platform == "win32", reason="Windows protects the user's folder by its own rights")
def test_only_the_owner_can_read_it(tmp_path):
    path = write_endpoint(ENDPOINT, tmp_path / "state")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_without_a_file_or_with_a_broken_one_the_words_say_how_to_start(tmp_path):
    with pytest.raises(NotReachable, match=r"no backend is running.*python -m backend serve"):
        read_endpoint(tmp_path)
    (tmp_path / CONNECTION_FILE).write_text("{half")
    with pytest.raises(NotReachable, match="cannot be read"):
        read_endpoint(tmp_path)


def test_a_file_left_by_a_dead_process_is_not_believed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert not process_alive(dead.pid)
    assert process_alive(os.getpid())
    write_endpoint(Endpoint("tcp://127.0.0.1:1", "secret", dead.pid), tmp_path)
    with pytest.raises(NotReachable, match="no backend is running"):
        read_endpoint(tmp_path)


def test_a_daemon_removes_its_own_file_only(tmp_path):
    path = write_endpoint(ENDPOINT, tmp_path)
    remove_endpoint(tmp_path, "another boot")
    assert path.exists()
    remove_endpoint(tmp_path, "b00t")
    assert not path.exists()
    remove_endpoint(tmp_path, "b00t")


def test_the_state_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_STATE", str(tmp_path))
    assert state_folder() == tmp_path
    monkeypatch.delenv("ORRERY_STATE")
    assert state_folder().is_absolute()


@pytest.mark.skipif(sys.platform == "win32", reason="the daemon has Unix sockets on Linux and macOS")
def test_the_unix_socket_is_used_where_it_is_the_one_of_this_address():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = Path(folder)
        path = write_endpoint(ENDPOINT, place)
        assert "folder" not in path.read_text()
        endpoint = read_endpoint(place)
        assert endpoint.nearest == ENDPOINT.address, "no socket there"
        listener.bind(str(place / "4242.sock"))
        assert endpoint.nearest == f"ipc://{place}/4242.sock"
        assert read_endpoint(path).nearest == endpoint.nearest, "also by the file's own path"
        for other in (
            replace(endpoint, address="tcp://127.0.0.1:4243"),  # a tunnel or proxy
            replace(endpoint, address="tcp://192.168.1.7:4242"),
            replace(endpoint, server_key="k" * 40),
            ENDPOINT,
        ):
            assert other.nearest == other.address


def test_a_folder_too_deep_for_a_unix_socket_has_none(tmp_path):
    assert local_socket(tmp_path / ("x" * 100), ENDPOINT.address) is None
