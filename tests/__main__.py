"""`python -m tests`: the whole suite, in the environments it needs.

Khronos' glTF validator is fetched where npm is. Then the backend's tests in this Python, whole
files beside each other on every core; then the add-on's tests in `.venv-blender`, an environment with the bpy
module (made here when absent), because Blender's Python is its own; ORRERY_TEST_BLENDERS=5.0,4.2 does both.
Arguments go to pytest.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.gltf_validator import install as install_gltf_validator

ROOT = Path(__file__).resolve().parents[1]
BLENDERS = {"5.0": ("bpy==5.0.1", ".venv-blender"), "4.2": ("bpy==4.2.23", ".venv-blender-4.2")}
"""Version -> package, environment. Those named in ORRERY_TEST_BLENDERS are tested; by default the newest."""
BLENDER_PACKAGES = ("numpy<2", "pyzmq", "msgpack", "pytest", "pytest-timeout")
SYSTEM_LIBRARIES = (
    "libx11-6", "libxrender1", "libxfixes3", "libxi6", "libxkbcommon0", "libsm6", "libgl1", "libegl1",
)  # fmt: skip
"""Debian packages that Blender loads even without a window."""


def _blender_python(bpy: str, environment: Path) -> Path | None:
    """The interpreter of a bpy environment; None where it cannot be made."""
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    if _imports(python, "zmq", "msgpack", "pytest", "pytest_timeout", "bpy"):
        return python
    sys.stderr.write(f"Installing Blender as a Python module into {environment.name} ...\n")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", bpy, *BLENDER_PACKAGES]
    if subprocess.run(install).returncode:
        sys.stderr.write(f"{bpy} could not be installed; it needs Python 3.11.\n")
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
    codes = [first]
    for version in os.environ.get("ORRERY_TEST_BLENDERS", next(iter(BLENDERS))).split(","):
        bpy, environment = BLENDERS[version]
        python = _blender_python(bpy, ROOT / environment)
        if python is None:
            sys.stderr.write(f"The tests in Blender {version} did not run: bpy does not load here.\n")
            codes.append(1)
            continue
        command = [python, "-m", "pytest", "tests/blender", *arguments]
        environ = {**os.environ, "ORRERY_BACKEND_PYTHON": sys.executable}
        codes.append(subprocess.run(command, cwd=ROOT, env=environ).returncode)
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main())
