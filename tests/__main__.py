"""`python -m tests`: the whole suite, in the environments it needs.

First the backend's tests in this Python, then the add-on's tests in `.venv-blender`, an environment with
the bpy module (made here when absent), because Blender's Python is its own. Arguments go to pytest.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLENDER = ROOT / ".venv-blender"
BLENDER_PACKAGES = ("bpy==5.0.1", "numpy<2", "pyzmq", "msgpack", "pytest", "pytest-timeout")


def _blender_python() -> Path | None:
    """The interpreter of the bpy environment; None where no bpy wheel fits this Python."""
    python = BLENDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BLENDER)], check=True)
    ready = subprocess.run([python, "-c", "import bpy, zmq, msgpack, pytest, pytest_timeout"], capture_output=True)
    if ready.returncode:
        sys.stderr.write("Installing Blender as a Python module into .venv-blender ...\n")
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *BLENDER_PACKAGES]
        if subprocess.run(install).returncode:
            return None
    return python


def main() -> int:
    arguments = sys.argv[1:] or ["-m", "not slow and not gpu and not quality"]
    first = subprocess.run(
        [sys.executable, "-m", "pytest", "--ignore=tests/blender", *arguments], cwd=ROOT
    ).returncode
    python = _blender_python()
    if python is None:
        sys.stderr.write("The Blender tests did not run: bpy 5.0.1 needs Python 3.11.\n")
        return first or 1
    second = subprocess.run([python, "-m", "pytest", "tests/blender", *arguments], cwd=ROOT).returncode
    return first or second


if __name__ == "__main__":
    sys.exit(main())
