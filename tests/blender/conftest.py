"""Blender in the background, one per test run, an empty file per test; its user folder is a private one."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

_USER = tempfile.mkdtemp(prefix="orrery-blender-")
atexit.register(shutil.rmtree, _USER, ignore_errors=True)
# Blender reads these when it is first imported.
os.environ["BLENDER_USER_RESOURCES"] = _USER
os.environ.setdefault("XDG_RUNTIME_DIR", _USER)


@pytest.fixture
def blender():
    """bpy with an empty file."""
    bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy


@pytest.fixture
def render(blender, tmp_path):
    """Render the scene with Cycles; see `render_front`."""
    from tests.support.blender_render import render_front

    return lambda **settings: render_front(Path(tmp_path), **settings)


_status = 0


def pytest_sessionfinish(session, exitstatus):
    global _status
    _status = int(exitstatus)


def pytest_unconfigure(config):
    """bpy 4.2 as a module crashes while Python takes itself down, after a property group with a method was
    registered (an empty class in a script of its own shows it); its exit code would hide ours."""
    bpy = sys.modules.get("bpy")
    if bpy is not None and bpy.app.version < (4, 3, 0):
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(_USER, ignore_errors=True)
        os._exit(_status)
