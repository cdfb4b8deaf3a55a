"""A screen of its own for a Blender window, and a script run in that window."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("Xvfb", "nm", "objdump")


@contextmanager
def screen(folder: Path, size: tuple[int, int]) -> Iterator[dict[str, str]]:
    """The environment of a Blender that opens its window on a fresh Xvfb of `size` pixels."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        pytest.skip(f"a window test needs Linux and {', '.join(missing or TOOLS)}")
    for name in ("user", "run", "resources"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{size[0]}x{size[1]}x24", "-noreset"],
        pass_fds=(writing,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            display = ":" + pipe.readline().strip()
        yield {
            **os.environ,
            "DISPLAY": display,
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "BLENDER_USER_RESOURCES": str(folder / "resources"),
            "ORRERY_STATE": str(folder / "state"),
        }
    finally:
        server.terminate()
        server.wait()


def in_window(folder: Path, target: str, size: tuple[int, int] = (1000, 700), seconds: float = 240) -> None:
    """Run "module:function" (see `blender_script`) in a Blender window; skips where no window opens."""
    with screen(folder, size) as environment, (folder / "blender.log").open("wb") as log:
        blender = subprocess.Popen(
            [sys.executable, "-m", "tests.support.blender_script", str(folder), target],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            blender.wait(seconds)
        finally:
            blender.kill()
            blender.wait()
    text = (folder / "blender.log").read_text(errors="replace")
    path = folder / "outcome.json"
    outcome = json.loads(path.read_text()) if path.exists() else {"error": f"Blender ended early:\n{text}"}
    if "harness" in outcome:
        pytest.skip(f"this bpy cannot be started with a window: {outcome['harness']}")
    assert outcome.get("done"), outcome.get("error")
    assert "Traceback" not in text, text
