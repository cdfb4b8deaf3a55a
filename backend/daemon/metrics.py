"""Counters and histograms, and on request their Prometheus text on a loopback port."""

import threading
from collections import Counter
from dataclasses import dataclass, field

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds in seconds."""


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    total: int = 0
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        self.total += 1
        self.sum += seconds
        for index, bound in enumerate(BUCKETS):
            if seconds <= bound:
                self.counts[index] += 1


class Metrics:
    """Written by the daemon's loop; `published` is the text that was last made of it."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.published = b""
        self._seconds: dict[tuple[str, str], _Histogram] = {}

    def observe(self, what: str, label: str, seconds: float) -> None:
        """Note a duration: what is "request" or "stage", label the message's or stage's name."""
        self._seconds.setdefault((what, label), _Histogram()).observe(seconds)

    def publish(self, gauges: dict[str, float], jobs: dict[str, int]) -> None:
        """Make the text. gauges: name -> value; jobs: state -> number."""
        lines = []
        for name, number in sorted(self.counters.items()):
            lines += [f"# TYPE orrery_{name}_total counter", f"orrery_{name}_total {number}"]
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE orrery_{name} gauge", f"orrery_{name} {value:g}"]
        lines.append("# TYPE orrery_jobs gauge")
        lines += [f'orrery_jobs{{state="{state}"}} {number}' for state, number in jobs.items()]
        for what in sorted({what for what, _ in self._seconds}):
            lines.append(f"# TYPE orrery_{what}_seconds histogram")
            for (kind, label), histogram in sorted(self._seconds.items()):
                if kind == what:
                    lines += _histogram_lines(f"orrery_{what}_seconds", f'{what}="{label}"', histogram)
        self.published = ("\n".join(lines) + "\n").encode()


def _histogram_lines(name: str, label: str, histogram: _Histogram) -> list[str]:
    lines = [
        f'{name}_bucket{{{label},le="{bound:g}"}} {count}'
        for bound, count in zip(BUCKETS, histogram.counts, strict=True)
    ]
    return [
        *lines,
        f'{name}_bucket{{{label},le="+Inf"}} {histogram.total}',
        f"{name}_sum{{{label}}} {histogram.sum:.6g}",
        f"{name}_count{{{label}}} {histogram.total}",
    ]


class MetricsServer:
    """GET /metrics on 127.0.0.1, in a thread that only hands out what was published."""

    def __init__(self, port: int, metrics: Metrics) -> None:
        import http.server  # 30 ms that a daemon without metrics need not wait for

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/metrics"
                body = metrics.published if known else b"see /metrics\n"
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are no news."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="orrery-metrics", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
