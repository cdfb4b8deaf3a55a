"""The real daemon with a fake worker: python -m tests.support.fake_daemon STATE WORKER [name=value ...]

Further arguments are fields of `DaemonConfig` (numbers), or seconds: `grace` before a deaf worker is ended,
`stop` for workers to end when the daemon does, `tick` between its regular deeds.
"""

import os
import sys
import time
from pathlib import Path

from backend.daemon import server, supervisor
from backend.daemon.config import DaemonConfig
from backend.daemon.server import Daemon
from tests.support import crash_points

RECIPES = (("fake", ("one", "two", "three", "four", "five", "six")),)


def _let_the_clock_jump():
    """ORRERY_FAKE_CLOCK seconds forward and back again, every tenth of a second."""
    jump, real = float(os.environ.get("ORRERY_FAKE_CLOCK", 0)), time.time
    if jump:
        time.time = lambda: real() + jump * ((int(real() * 10) % 3) - 1)


def main():
    _let_the_clock_jump()
    crash_points.install("daemon")
    options = {name: float(value) for name, _, value in (text.partition("=") for text in sys.argv[3:])}
    supervisor.GRACE_SECONDS = options.pop("grace", supervisor.GRACE_SECONDS)
    supervisor.BACK_OFF_SECONDS = (0.0, 0.1, 0.2)
    server.STOP_SECONDS = options.pop("stop", server.STOP_SECONDS)
    server.TICK_SECONDS = options.pop("tick", 0.2)
    options |= {name: int(options[name]) for name in ("workers", "metrics_port") if name in options}
    worker = (sys.executable, "-m", sys.argv[2])
    daemon = Daemon(DaemonConfig(Path(sys.argv[1]), worker=worker, recipes=RECIPES, **options))
    sys.stdout.write(daemon.endpoint.address + "\n")
    sys.stdout.flush()
    daemon.run()
    heavy = [name for name in ("torch", "numba", "scipy", "cv2") if name in sys.modules]
    sys.stdout.write(f"heavy modules: {heavy}\n")


if __name__ == "__main__":
    main()
