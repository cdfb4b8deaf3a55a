"""The backend: install, start, stop, what it is, its log."""

import bpy

from .. import fixes, session
from ..backend_install import Installer, installed
from ..jobs import JobList, Link
from ..manifest import version
from ..preferences import preferences
from ..widths import beside, narrow
from .words import CATEGORY, LINK_ICONS, error_box, fix_buttons, paragraph, sentence

SHOWN_LINES = 3


class ORRERY_PT_backend(bpy.types.Panel):
    """Where the work is done."""

    bl_label = "Backend"
    bl_idname = "ORRERY_PT_backend"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, current = self.layout, session.current()
        if current is None:
            return
        jobs = current.jobs
        layout.label(text=jobs.link.value.capitalize(), icon=LINK_ICONS[jobs.link])
        row = beside(layout)
        if jobs.host:
            row.operator("orrery.disconnect", icon="UNLINKED")
        else:
            row.operator("orrery.connect", text="Start", icon="PLAY")
            row.operator("orrery.stop_backend", icon="SNAP_FACE")
        row.operator("orrery.show_log", text="Log", icon="TEXT")
        _draw_versions(layout, jobs)
        box = layout.box()
        whole = installed(session.backend_folder())
        box.label(text="Installed" if whole else "Not installed here", icon="PACKAGE")
        chosen = preferences(context)
        if isinstance(chosen, bpy.types.AddonPreferences):
            row = _labelled(box, "Torch")
            row.row().prop(chosen, "torch", expand=True)
            row = _labelled(box, "Folder")
            row.prop(chosen, "backend_folder", text="", placeholder="Blender's user folder")
        row = beside(box)
        row.operator("orrery.install_backend", text="Update" if whole else "Install", icon="IMPORT")
        row.operator("orrery.repair_backend")
        row.operator("orrery.remove_backend", icon="TRASH")
        draw_installer(box, current.installer)
        if isinstance(chosen, bpy.types.AddonPreferences):
            box = layout.box()
            box.label(text="On another machine", icon="NETWORK_DRIVE")
            box.prop(chosen, "connection_file", text="", placeholder="Connection file from keygen")
            if not bpy.app.online_access:
                paragraph(box, "Blender is offline: only this machine is reached.", "INFO")
                fix_buttons(box, [fixes.ONLINE])
        if chosen.show_frame_times:
            seconds, what = current.frames.worst()
            box = layout.box()
            box.label(text=f"Longest turn {1000 * seconds:.1f} ms ({what})", icon="TIME")
            box.label(text=f"{current.frames.over()} of {len(current.frames.ticks)} over 16 ms")
            box.operator("orrery.save_frame_times")


def _labelled(layout: bpy.types.UILayout, text: str) -> bpy.types.UILayout:
    """Where to put a field with a label before it, or above it where there is no room."""
    row = layout.column(align=True) if narrow() else layout.split(factor=0.3)
    row.label(text=text)
    return row


def draw_installer(layout: bpy.types.UILayout, installer: Installer) -> None:
    """What the installation does, or how it ended."""
    if installer.running:
        layout.progress(factor=installer.fraction, text=sentence(installer.words))
        layout.operator("orrery.cancel_install", icon="CANCEL")
    if installer.running or installer.error is not None:
        column = layout.column(align=True)
        column.scale_y = 0.8
        for line in list(installer.lines)[-SHOWN_LINES:]:
            column.label(text=line[:80])
    elif installer.words:
        layout.label(text=sentence(installer.words), icon="INFO")
    if installer.error is not None:
        error_box(layout, installer.error)


def _draw_versions(layout: bpy.types.UILayout, jobs: JobList) -> None:
    if jobs.link is not Link.READY:
        return
    paragraph(layout, jobs.server)
    if jobs.version and jobs.version != version():
        box = layout.box()
        words = f"The add-on is version {version()}, the backend {jobs.version}."
        paragraph(box, words, "INFO")
        if not jobs.host:
            fix_buttons(box, [fixes.UPDATE])
