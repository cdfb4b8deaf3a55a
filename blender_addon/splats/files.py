"""File > Import and Export of Gaussians by hand: .ply, .compressed.ply, .spz, .splat."""

import time
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
from bpy_extras.io_utils import ExportHelper, ImportHelper

from shared_protocol.errors import InvalidInput, OrreryError
from shared_protocol.splats.arrays import cut_degree
from shared_protocol.splats.files import FORMATS, format_of, write_stored

from . import layout
from .columns import open_file, read_beside, read_columns
from .editing import chosen_splats
from .importing import import_steps, prepare_scene
from .transform import joined, transformed

SLICED_BYTES = 200 * 2**20
"""A larger file (about a million Gaussians of degree 3) is read while the window goes on."""
BUDGET = 0.004
"""Seconds of work between two turns of the window."""
_NONE = ("3", "All", "Colours that follow the view, as far as the file has them")
_DEGREES = (
    _NONE,
    ("2", "Degree 2", "A little less memory"),
    ("1", "Degree 1", "A quarter of the memory"),
    ("0", "None", "One colour a Gaussian: the least memory"),
)


class ORRERY_OT_import_splats(bpy.types.Operator, ImportHelper):
    """Import Gaussian splats: PLY of any 3DGS program, compressed PLY, SPZ or .splat"""

    bl_idname = "orrery.import_splats"
    bl_label = "Import Gaussians"
    bl_options = {"REGISTER", "UNDO"}

    filter_glob: bpy.props.StringProperty(default="*.ply;*.spz;*.splat", options={"HIDDEN"})
    files: bpy.props.CollectionProperty(
        type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"}
    )
    directory: bpy.props.StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    degree: bpy.props.EnumProperty(name="Harmonics", items=_DEGREES)
    y_up: bpy.props.BoolProperty(
        name="Y Is Up",
        description="Stand the Gaussians up: the file's +Y is up (or down, then turn them once more). "
        "An SPZ says so itself",
    )
    drop_broken: bpy.props.BoolProperty(
        name="Leave Out Broken",
        description="Leave out Gaussians with numbers that are not finite, instead of refusing the file",
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        paths = [Path(self.directory) / file.name for file in self.files if file.name] or [
            Path(self.filepath)
        ]
        sliced = not bpy.app.background and context.window is not None
        sliced = sliced and sum(_size(path) for path in paths) >= SLICED_BYTES
        self._steps = self._work(context, paths, beside=sliced)
        self._made: list[bpy.types.Object] = []
        if not sliced:
            return self._go_on(float("inf"), context)
        self._timer = context.window_manager.event_timer_add(0.01, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set("Importing Gaussians ... Esc cancels")
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC":
            self._steps.close()
            self._end(context)
            self.report({"INFO"}, "The import was cancelled")
            return {"CANCELLED"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        outcome = self._go_on(time.perf_counter() + BUDGET, context)
        if outcome != {"RUNNING_MODAL"}:
            self._end(context)
        return outcome

    def _end(self, context: bpy.types.Context) -> None:
        context.window_manager.event_timer_remove(self._timer)
        context.workspace.status_text_set(None)

    def _go_on(self, until: float, context: bpy.types.Context) -> set[str]:
        """Work until the given time; the operator's answer."""
        try:
            while time.perf_counter() < until:
                next(self._steps)
        except StopIteration:
            for item in context.view_layer.objects.selected:
                item.select_set(False)
            for item in self._made:
                item.select_set(True)
                context.view_layer.objects.active = item
            total = sum(layout.count(item.data) for item in self._made)
            self.report({"INFO"}, f"{total:,} Gaussians imported")
            return {"FINISHED"}
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"RUNNING_MODAL"}

    def _work(self, context: bpy.types.Context, paths: list[Path], *, beside: bool) -> Iterator[None]:
        options = {"degree": int(self.degree), "drop_broken": self.drop_broken}
        for path in paths:
            reading = read_beside(path, **options) if beside else read_columns(open_file(path), **options)
            item = None
            for made in import_steps(reading, _stem(path), context.collection):
                item = made
                yield
            if self.y_up and path.suffix.lower() != ".spz":
                item.rotation_euler.x = np.pi / 2
            self._made.append(item)
        prepare_scene(context.scene)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _stem(path: Path) -> str:
    name = path.name
    for known in sorted(FORMATS, key=len, reverse=True):
        if name.lower().endswith("." + known):
            return name[: -len(known) - 1]
    return name


class ORRERY_OT_export_splats(bpy.types.Operator, ExportHelper):
    """Export the Gaussians of the selected objects as one file"""

    bl_idname = "orrery.export_splats"
    bl_label = "Export Gaussians"

    filename_ext = ".ply"
    check_extension = None
    filter_glob: bpy.props.StringProperty(default="*.ply;*.spz;*.splat", options={"HIDDEN"})
    kind: bpy.props.EnumProperty(
        name="Format",
        items=(
            ("ply", "PLY", "Every number as it is: for every program"),
            ("compressed.ply", "Compressed PLY", "PlayCanvas: a quarter of the size"),
            ("spz", "SPZ", "Niantic: a tenth of the size"),
            ("splat", ".splat", "antimatter15: without colours that follow the view"),
        ),
    )
    apply: bpy.props.BoolProperty(
        name="Apply Transform",
        description="Write the Gaussians where they are in the world, colours that follow the view turned "
        "with them; else as they are in their object",
        default=True,
    )
    degree: bpy.props.EnumProperty(name="Harmonics", items=_DEGREES)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not chosen_splats(context):
            cls.poll_message_set("Select an object with Gaussians")
            return False
        return True

    def check(self, context: bpy.types.Context) -> bool:
        """Blender asks whether the name is to change: its extension follows the format."""
        path = Path(self.filepath)
        wanted = str(path.with_name(_stem(path) + "." + self.kind))
        changed = wanted != self.filepath
        self.filepath = wanted
        return changed

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            path = Path(self.filepath)
            if not any(path.name.lower().endswith("." + known) for known in FORMATS):
                path = path.with_name(f"{path.name}.{self.kind}")
            format_of(path)
            parts = []
            chosen = chosen_splats(context)
            for item in chosen:
                stored = layout.read_stored(item.data)
                if self.apply:
                    stored = transformed(stored, np.array(item.matrix_world, np.float64))
                parts.append(cut_degree(stored, int(self.degree)))
            whole = joined(parts)
            filtered = {layout.antialiased(item.data) for item in chosen}
            antialiased = filtered == {True}
            if len(filtered) > 1:
                self.report({"WARNING"}, "Only some were trained antialiased; the file says that none was")
            if not whole.count:
                raise InvalidInput("the selected objects have no Gaussians", "at least one", "Select others.")
            size = write_stored(path, whole, antialiased=antialiased)
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        except OSError as error:
            self.report({"ERROR"}, f"{self.filepath} cannot be written ({error.strerror or error})")
            return {"CANCELLED"}
        self.report({"INFO"}, f"{whole.count:,} Gaussians written, {size / 1e6:.1f} MB")
        return {"FINISHED"}


class ORRERY_FH_splats(bpy.types.FileHandler):
    """Files of Gaussians dropped onto a 3D view."""

    bl_idname = "ORRERY_FH_splats"
    bl_label = "Gaussians"
    bl_import_operator = "orrery.import_splats"
    bl_file_extensions = ".ply;.spz;.splat"

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


def _import_entry(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.operator("orrery.import_splats", text="Gaussians (.ply, .spz, .splat)")


def _export_entry(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.operator("orrery.export_splats", text="Gaussians (.ply, .spz, .splat)")


CLASSES = (ORRERY_OT_import_splats, ORRERY_OT_export_splats, ORRERY_FH_splats)


def register() -> None:
    """Entries of the File menu."""
    bpy.types.TOPBAR_MT_file_import.append(_import_entry)
    bpy.types.TOPBAR_MT_file_export.append(_export_entry)


def unregister() -> None:
    """Take them away again."""
    bpy.types.TOPBAR_MT_file_import.remove(_import_entry)
    bpy.types.TOPBAR_MT_file_export.remove(_export_entry)
