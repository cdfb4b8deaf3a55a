"""A model hub on loopback: files of repositories, by the addresses and heads that a real one has."""

import contextlib
import hashlib
import http.server
import threading
from pathlib import Path


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        files, token, states, asked = self.server.hub
        asked.append((self.command, self.path))
        owner, repo, _, _, *rest = self.path.strip("/").split("/")
        path = files.get((f"{owner}/{repo}", "/".join(rest)))
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self.send_error(401)
            return
        if path is None:
            self.send_error(404)
            return
        body = path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("X-Linked-Size", str(len(body)))
        if states:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if not head:
            with contextlib.suppress(ConnectionError):  # the client had enough
                self.wfile.write(body[start:])

    def log_message(self, *arguments):
        """Quiet."""


@contextlib.contextmanager
def serving(files: dict[tuple[str, str], Path], token: str = "", states_sums: bool = True):
    """Serve {(repository, path): file}; yields the endpoint and the list of what was asked."""
    asked: list[tuple[str, str]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.hub = (files, token, states_sums, asked)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
