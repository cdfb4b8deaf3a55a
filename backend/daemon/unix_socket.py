"""A Unix socket beside the daemon's port, for programs of the same user: a tenth faster than loopback."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from shared_protocol.endpoint import local_socket

SEND_BUFFER_BYTES = 512 * 1024
"""What the kernel takes of one connection at a time. Its 208 KiB mean ten times as many wakings as TCP needs,
a tenth of a transfer's processor time; ZeroMQ has no option for it."""


class UnixSocket:
    """The file and the news of who connected; `open` gives None where there can be no such socket."""

    def __init__(self, path: Path, monitor: "zmq.Socket[Any]") -> None:
        self.monitor = monitor
        """Readable when somebody has connected: call `widen`."""
        self._path = path

    @classmethod
    def open(cls, router: "zmq.Socket[bytes]", state: Path, address: str) -> Self | None:
        """Bind it in the state folder, which only its owner can enter; `router` listens at `address` too."""
        for left in state.glob("*.sock"):  # by a daemon that was killed: this one holds the folder's lock
            left.unlink(missing_ok=True)
        path = local_socket(state, address)
        if path is None or not zmq.has("ipc"):
            return None
        try:
            router.bind(f"ipc://{path}")
        except zmq.ZMQError:  # a file system without sockets: TCP does as well
            return None
        return cls(path, router.get_monitor_socket(zmq.EVENT_ACCEPTED))

    def widen(self) -> None:
        """Give new connections a larger buffer."""
        while self.monitor.get(zmq.EVENTS) & zmq.POLLIN:
            number = int(recv_monitor_message(self.monitor)["value"])
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                if connection.family == socket.AF_UNIX:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def close(self, router: "zmq.Socket[bytes]") -> None:
        """Before the router is closed."""
        router.disable_monitor()
        self.monitor.close(0)
        self._path.unlink(missing_ok=True)
