"""The real daemon with the worker of fake_worker.py: python -m tests.support.fake_daemon STATE [PORT]"""

import sys
from pathlib import Path

from backend.daemon.config import DaemonConfig
from backend.daemon.server import Daemon

RECIPES = (("fake", 6),)


def main():
    state, port = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    worker = (sys.executable, "-m", "tests.support.fake_worker")
    daemon = Daemon(DaemonConfig(state, port=port, worker=worker, recipes=RECIPES))
    sys.stdout.write(daemon.endpoint.address + "\n")
    sys.stdout.flush()
    daemon.run()
    heavy = [name for name in ("torch", "numba", "scipy", "cv2") if name in sys.modules]
    sys.stdout.write(f"heavy modules: {heavy}\n")


if __name__ == "__main__":
    main()
