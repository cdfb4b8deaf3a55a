"""`python -m tests`: the whole suite, in the environments it needs.

Khronos' glTF validator is fetched where npm is. Then the backend's tests in this Python, whole
files beside each other on every core; then the add-on's tests in `.venv-blender`, an environment with the bpy
module (made here when absent), because Blender's Python is its own. Arguments go to pytest.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.gltf_validator import install as install_gltf_validator

ROOT = Path(__file__).resolve().parents[1]
BLENDER = ROOT / ".venv-blender"
BLENDER_PACKAGES = ("bpy==5.0.1", "numpy<2", "pyzmq", "msgpack", "pytest", "pytest-timeout")
SYSTEM_LIBRARIES = (
    "libx11-6", "libxrender1", "libxfixes3", "libxi6", "libxkbcommon0", "libsm6", "libgl1", "libegl1",
)  # fmt: skip
"""Debian packages that Blender loads even without a window."""


def _blender_python() -> Path | None:
    """The interpreter of the bpy environment; None where it cannot be made."""
    python = BLENDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BLENDER)], check=True)
    if _imports(python, "zmq", "msgpack", "pytest", "pytest_timeout", "bpy"):
        return python
    sys.stderr.write("Installing Blender as a Python module into .venv-blender ...\n")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *BLENDER_PACKAGES]
    if subprocess.run(install).returncode:
        sys.stderr.write("bpy 5.0.1 could not be installed; it needs Python 3.11.\n")
        return None
    if not _imports(python, "bpy"):
        _install_system_libraries()
    return python if _imports(python, "bpy") else None


def _imports(python: Path, *modules: str) -> bool:
    return subprocess.run([python, "-c", f"import {', '.join(modules)}"], capture_output=True).returncode == 0


def _install_system_libraries() -> None:
    commands = (["apt-get", "-q", "update"], ["apt-get", "-qy", "install", *SYSTEM_LIBRARIES])
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        for command in commands:
            subprocess.run(command, stdout=subprocess.DEVNULL)
    else:
        sys.stderr.write(
            f"Blender needs system libraries: sudo apt-get install {' '.join(SYSTEM_LIBRARIES)}\n"
        )


def main() -> int:
    arguments = sys.argv[1:] or ["-m", "not slow and not gpu and not quality"]
    install_gltf_validator()
    workers = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]
    first = subprocess.run(
        [sys.executable, "-m", "pytest", "--ignore=tests/blender", *workers, *arguments], cwd=ROOT
    ).returncode
    python = _blender_python()
    if python is None:
        sys.stderr.write("The Blender tests did not run: bpy does not load here.\n")
        return first or 1
    second = subprocess.run(
        [python, "-m", "pytest", "tests/blender", *arguments],
        cwd=ROOT,
        env={**os.environ, "ORRERY_BACKEND_PYTHON": sys.executable},
    ).returncode
    return first or second


if __name__ == "__main__":
    sys.exit(main())
