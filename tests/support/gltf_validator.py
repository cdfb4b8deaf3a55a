"""Khronos' glTF validator, an npm package: `python -m tests` installs it where npm is."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

VERSION = "2.0.0-dev.3.10"
_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / ".venv-node"
_PACKAGE = _FOLDER / "node_modules" / "gltf-validator"


def install() -> None:
    """Fetch the package into .venv-node; without npm or network a sentence, and its tests are skipped."""
    if _PACKAGE.exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.stderr.write(
            "npm is not here: Khronos' glTF validator is not installed, its tests are skipped.\n"
        )
        return
    sys.stderr.write("Installing Khronos' glTF validator into .venv-node ...\n")
    _FOLDER.mkdir(exist_ok=True)
    flags = ["--prefix", str(_FOLDER), "--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    try:
        done = subprocess.run([npm, "install", *flags, f"gltf-validator@{VERSION}"], timeout=120).returncode
    except subprocess.TimeoutExpired:
        done = 1
    if done:
        sys.stderr.write("It could not be installed: its tests are skipped.\n")


@cache
def why_not() -> str:
    """Why the validator cannot run here; empty when it can."""
    if shutil.which("node") is None:
        return "node is not installed: Khronos' glTF validator did not run"
    if not _PACKAGE.exists():
        return "Khronos' glTF validator is not installed; `python -m tests` installs it with npm"
    return ""


def validate(path: Path) -> list[dict[str, Any]]:
    """All messages on a GLB: code, message, severity (0 error, 1 warning, 2 information, 3 hint), pointer.

    RuntimeError when node itself fails.
    """
    script = Path(__file__).with_name("gltf_validator.js")
    done = subprocess.run(
        ["node", str(script), str(_PACKAGE), str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"the glTF validator did not run: {done.stderr}")
    return json.loads(done.stdout)["issues"]["messages"]
