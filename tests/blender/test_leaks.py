"""Switched on and off twenty times, the add-on leaves nothing behind."""

import gc
import threading

import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import session, thumbnails  # noqa: E402
from tests.support import blender_files as files  # noqa: E402

pytestmark = pytest.mark.blender


def left_behind():
    """What Blender and Python hold that an add-on could have put there."""
    handlers = {
        name: len(getattr(bpy.app.handlers, name))
        for name in dir(bpy.app.handlers)
        if isinstance(getattr(bpy.app.handlers, name), list)
    }
    gc.collect()
    return {
        "handlers": handlers,
        "timer": bpy.app.timers.is_registered(session._tick),
        "classes": sorted(name for name in dir(bpy.types) if "orrery" in name.lower()),
        "properties": sorted(
            name for kind in (bpy.types.Scene, bpy.types.Object) for name in dir(kind) if "orrery" in name
        ),
        "threads": sorted(
            thread.name for thread in threading.enumerate() if thread.name.startswith("orrery")
        ),
        "sessions": sum(isinstance(item, session.Session) for item in gc.get_objects()),
        "previews": thumbnails._icons,
    }


def test_twenty_times_on_and_off_leave_no_handler_class_property_thread_or_session(
    blender, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    monkeypatch.setenv("ORRERY_STATE", str(tmp_path / "state"))
    picture = tmp_path / "picture.png"
    picture.write_bytes(files.wedge_glb()[0])
    before = left_behind()
    for _ in range(20):
        blender_addon.register()
        session.current().start()  # as in the window: the thread runs
        session.current().pump()
        thumbnails.icon(picture)
        blender_addon.unregister()
    assert left_behind() == before
