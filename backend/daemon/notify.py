"""Tells systemd how the daemon is (sd_notify(3)): ready, alive, stopping. Does nothing elsewhere."""

import contextlib
import os
import socket


class Notifier:
    """Reads NOTIFY_SOCKET and WATCHDOG_USEC once; the workers do not inherit them."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        meant = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = int(microseconds) / 2e6 if microseconds.isdigit() and meant else 0.0
        """Seconds between two signs of life; 0: nobody waits for them."""
        self._socket: socket.socket | None = None
        if address and hasattr(socket, "AF_UNIX"):
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
                self._socket.connect("\0" + address[1:] if address.startswith("@") else address)

    def tell(self, text: str) -> None:
        """Send "READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=..."."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(text.encode())

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
