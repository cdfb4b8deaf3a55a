"""The real daemon with a fake worker: python -m tests.support.fake_daemon STATE WORKER_MODULE"""

import sys
from pathlib import Path

from backend.daemon.config import DaemonConfig
from backend.daemon.server import Daemon

RECIPES = (("fake", ("one", "two", "three", "four", "five", "six")),)


def main():
    worker = (sys.executable, "-m", sys.argv[2])
    daemon = Daemon(DaemonConfig(Path(sys.argv[1]), worker=worker, recipes=RECIPES))
    sys.stdout.write(daemon.endpoint.address + "\n")
    sys.stdout.flush()
    daemon.run()
    heavy = [name for name in ("torch", "numba", "scipy", "cv2") if name in sys.modules]
    sys.stdout.write(f"heavy modules: {heavy}\n")


if __name__ == "__main__":
    main()
