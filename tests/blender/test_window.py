"""A real Blender window under Xvfb: the tab is opened, the button is clicked with the mouse."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from tests.support import blender_files as files  # noqa: E402
from tests.support.blender_backend import ScriptedBackend  # noqa: E402
from tests.support.blender_render import read_png  # noqa: E402
from tests.support.xvfb import in_window, screen  # noqa: E402

pytestmark = pytest.mark.blender

ROOT = Path(__file__).resolve().parents[2]
SIZE = (1280, 900)

# Distance of a button's middle from the top of the sidebar, pixels at scale 1, in Blender 4.2 and 5.0.
GENERATE, CANCEL = 195, 312


class Window:
    """Blender in a window of its own X server."""

    def __init__(self, folder: Path, display: str) -> None:
        self.folder, self.display = folder, display

    def status(self) -> dict:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait(self, condition, what: str, seconds: float = 60) -> dict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status()
            if status.get("harness"):
                pytest.skip(f"this bpy cannot be started with a window: {status['harness']}")
            if status and condition(status):
                return status
            time.sleep(0.1)
        raise AssertionError(f"{what} did not happen: {self.status()}")

    def click_until(self, below_top: int, condition, what: str) -> dict:
        """Click again where a busy machine has swallowed the click."""
        for _ in range(5):
            self.click(below_top)
            end = time.monotonic() + 8
            while time.monotonic() < end:
                if (status := self.status()) and condition(status):
                    return status
                time.sleep(0.1)
        raise AssertionError(f"{what} did not happen: {self.status()}")

    def click(self, below_top: int) -> None:
        x, y, width, height = self.status()["sidebar"]
        left, top = x + width // 2 - 16, SIZE[1] - (y + height) + below_top
        self._mouse("mousemove", str(left), str(top))
        time.sleep(0.5)
        self._mouse("click", "1")
        time.sleep(0.5)
        # Blender keeps the look of a button while the mouse is over it.
        self._mouse("mousemove", str(x - 200), str(SIZE[1] // 2))

    def _mouse(self, *words: str) -> None:
        subprocess.run(["xdotool", *words], env={**os.environ, "DISPLAY": self.display}, check=True)

    def screenshot(self, name: str) -> np.ndarray:
        """(H, W, 4) of the whole screen."""
        path = self.folder / name
        subprocess.run(
            ["import", "-window", "root", str(path)], env={**os.environ, "DISPLAY": self.display}, check=True
        )
        return read_png(path)


@pytest.fixture
def window(tmp_path):
    if shutil.which("xdotool") is None or shutil.which("import") is None:
        pytest.skip("a window test needs xdotool and ImageMagick's import")
    (tmp_path / "duck.png").write_bytes(files.png(np.full((8, 8, 3), 200, np.uint8)))
    (tmp_path / "settings.json").write_text(json.dumps({"picture": str(tmp_path / "duck.png")}))
    with screen(tmp_path, SIZE) as environment, (tmp_path / "blender.log").open("wb") as log:
        blender = subprocess.Popen(
            [sys.executable, "-m", "tests.support.blender_window", str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Window(tmp_path, environment["DISPLAY"])
            (tmp_path / "quit").touch()
            assert blender.wait(60) == 0, (tmp_path / "blender.log").read_text()
            assert "Traceback" not in (tmp_path / "blender.log").read_text()
        finally:
            blender.kill()
            blender.wait()


def test_clicking_generate_shows_progress_cancels_and_imports(window):
    result = {
        "mesh.glb": files.wedge_glb()[0],
        "splats.ply": files.splat_ply(**files.ball_splats(count=300)),
    }
    with ScriptedBackend(window.folder / "state", result) as backend:
        window.wait(lambda status: status.get("ready"), "the panel")
        backend.hold.set()
        window.click_until(GENERATE, lambda status: status["state"] == "RUNNING", "the job")
        time.sleep(1.5)  # a redraw takes about a second on a software renderer
        running = window.screenshot("running.png")
        window.click_until(CANCEL, lambda status: status["state"] == "CANCELLED", "the cancel")
        backend.hold.clear()
        window.click_until(GENERATE, lambda status: status["jobs"] == 2, "the second job")
        status = window.wait(
            lambda status: status["jobs"] == 2 and status["state"] == "IMPORTED", "the import"
        )
        time.sleep(1.5)
        done = window.screenshot("done.png")
    assert {"duck", "duck Gaussians"} <= set(status["objects"])
    assert len(backend.cancelled) == 1
    x, y, width, height = status["sidebar"]
    panel = (slice(SIZE[1] - y - height, SIZE[1] - y), slice(x, x + width))
    for picture in (running, done):
        assert picture[..., :3].std() > 0.05  # not black
    # The progress bar is the panel's only large blue area beside the chosen buttons.
    assert np.abs(running[panel] - done[panel]).max() > 0.3


IMPORTS = 20


def import_again_and_again(blender, folder):
    """In the window: one result imported by the timer, with undo and redo, while two threads run Python."""
    import blender_addon
    from blender_addon import preferences, session, splats
    from blender_addon.jobs import State

    splats.unregister()
    preferences.Defaults.auto_start = False
    session.user_folder = lambda: folder / "user"
    result = {
        "mesh.glb": files.wedge_glb()[0],
        "mesh_lod1.glb": files.wedge_glb()[0],
        "splats.ply": files.splat_ply(**files.ball_splats(count=300)),
    }
    (folder / "duck.png").write_bytes(files.png(np.full((8, 8, 3), 200, np.uint8)))
    blender_addon.register()
    current = session.current()
    with ScriptedBackend(folder / "state", result) as backend:
        blender.context.scene.orrery.path = str(folder / "duck.png")
        blender.ops.orrery.generate()
        job = current.jobs.latest
        while not job.final:
            yield 0.05
        backend.hold.set()
        blender.ops.orrery.generate()  # the client's thread goes on listening, asking and being answered
        window = blender.context.window_manager.windows[0]
        for number in range(IMPORTS):
            job.state = State.RECEIVED
            with blender.context.temp_override(window=window):
                blender.ops.orrery.import_result(job=job.id)
            while current.importing is not None:
                yield 0.02
            assert job.state is State.IMPORTED, job.error
            before = len(blender.data.objects)
            if number % 2:
                with blender.context.temp_override(window=window):
                    blender.ops.ed.undo()
                assert len(blender.data.objects) == before - 3
            if number % 4 == 1:
                with blender.context.temp_override(window=window):
                    blender.ops.ed.redo()
                assert len(blender.data.objects) == before
            yield 0.02
    blender_addon.unregister()
    splats.register()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_imports_by_the_windows_timer_leave_undo_steps_and_no_crash(tmp_path):
    in_window(tmp_path, f"{__name__}:import_again_and_again", size=(500, 400), seconds=500)
