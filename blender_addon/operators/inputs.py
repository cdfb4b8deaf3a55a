"""Pictures from elsewhere: the viewport, the clipboard, a file dropped onto the viewport."""

import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import bpy

from .. import session
from ..properties import FROM_FILE, FROM_IMAGE, settings

NO_CLIPBOARD = "There is no picture in the clipboard"
NO_TOOL = (
    "On Linux this Blender cannot read pictures from the clipboard by itself: install xclip or wl-clipboard"
)
CLIPBOARD_TOOLS = (
    ("wl-paste", "--no-newline", "--type", "image/png"),
    ("xclip", "-selection", "clipboard", "-target", "image/png", "-out"),
)
CLIPBOARD_SECONDS = 2.0
SUFFIXES = ".png;.jpg;.jpeg;.webp;.bmp;.tif;.tiff;.tga"


class ORRERY_OT_render_viewport(bpy.types.Operator):
    """Take what this viewport shows, without overlays, as the picture"""

    bl_idname = "orrery.render_viewport"
    bl_label = "Viewport"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if bpy.app.background or context.space_data is None or context.space_data.type != "VIEW_3D":
            cls.poll_message_set("There is no 3D viewport here to take a picture of")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        render, overlay = context.scene.render, context.space_data.overlay
        kept = (render.film_transparent, overlay.show_overlays)
        render.film_transparent, overlay.show_overlays = True, False
        try:
            bpy.ops.render.opengl(view_context=True)
            path = _input_file("viewport")
            bpy.data.images["Render Result"].save_render(str(path), scene=context.scene)
        finally:
            render.film_transparent, overlay.show_overlays = kept
        _take(context, bpy.data.images.load(str(path)))
        return {"FINISHED"}


class ORRERY_OT_paste_image(bpy.types.Operator):
    """Take the picture in the clipboard"""

    bl_idname = "orrery.paste_image"
    bl_label = "Paste"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if bpy.app.background:
            cls.poll_message_set(NO_CLIPBOARD)
            return False
        if not bpy.ops.image.clipboard_paste.poll() and not _clipboard_tools():
            cls.poll_message_set(NO_TOOL if sys.platform == "linux" else NO_CLIPBOARD)
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        image = _pasted_by_blender() or _pasted_by_tool()
        if image is None:
            self.report({"ERROR"}, NO_CLIPBOARD)
            return {"CANCELLED"}
        _take(context, image)
        return {"FINISHED"}


@cache
def _clipboard_tools() -> tuple[tuple[str, ...], ...]:
    """Programs that hand out the clipboard of a Linux desktop."""
    found = tuple(tool for tool in CLIPBOARD_TOOLS if shutil.which(tool[0]))
    return found if sys.platform == "linux" else ()


def _pasted_by_blender() -> bpy.types.Image | None:
    if not bpy.ops.image.clipboard_paste.poll():
        return None
    before = set(bpy.data.images)
    try:
        bpy.ops.image.clipboard_paste()
    except RuntimeError:  # it says so where the clipboard holds something else
        return None
    return next((image for image in bpy.data.images if image not in before), None)


def _pasted_by_tool() -> bpy.types.Image | None:
    for tool in _clipboard_tools():
        try:
            outcome = subprocess.run(tool, capture_output=True, timeout=CLIPBOARD_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if outcome.returncode == 0 and outcome.stdout.startswith(b"\x89PNG"):
            path = _input_file("clipboard")
            path.write_bytes(outcome.stdout)
            return bpy.data.images.load(str(path))
    return None


def _input_file(what: str) -> Path:
    """A new file for a picture that came from no file."""
    folder = session.user_folder() / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{what}-{time.time_ns() // 1_000_000}.png"


class ORRERY_OT_drop_image(bpy.types.Operator):
    """Take this file as the picture"""

    bl_idname = "orrery.drop_image"
    bl_label = "Generate 3D from This Picture"
    bl_options = {"UNDO", "INTERNAL"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        chosen = settings(context)
        chosen.source, chosen.path = FROM_FILE, self.filepath
        if context.space_data is not None and context.space_data.type == "VIEW_3D":
            context.space_data.show_region_ui = True
        self.report({"INFO"}, "The picture is chosen: see the Orrery tab of the sidebar")
        return {"FINISHED"}


class ORRERY_FH_image(bpy.types.FileHandler):
    """Picture files dropped onto a 3D viewport."""

    bl_idname = "ORRERY_FH_image"
    bl_label = "Generate 3D from This Picture"
    bl_import_operator = "orrery.drop_image"
    bl_file_extensions = SUFFIXES

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.space_data is not None and context.space_data.type == "VIEW_3D"


def _take(context: bpy.types.Context, image: bpy.types.Image) -> None:
    chosen = settings(context)
    chosen.source, chosen.image = FROM_IMAGE, image
