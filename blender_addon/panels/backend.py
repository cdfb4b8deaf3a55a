"""The backend: install, start, stop, what it is, its log."""

import bpy

from .. import fixes, session
from ..backend_install import installed
from ..jobs import JobList, Link
from ..manifest import version
from ..preferences import preferences
from .generate import LINK_ICONS
from .words import CATEGORY, error_box, fix_buttons, paragraph


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
        row = layout.row(align=True)
        row.operator("orrery.connect", text="Start", icon="PLAY")
        row.operator("orrery.stop_backend", icon="SNAP_FACE")
        row.operator("orrery.show_log", text="Log", icon="TEXT")
        _draw_versions(layout, jobs)
        box = layout.box()
        box.label(
            text="Installed" if installed(session.backend_folder()) else "Not installed here", icon="PACKAGE"
        )
        chosen = preferences(context)
        if isinstance(chosen, bpy.types.AddonPreferences):
            box.row().prop(chosen, "torch", expand=True)
            box.prop(chosen, "backend_folder", text="Folder")
        row = box.row(align=True)
        row.operator("orrery.install_backend", icon="IMPORT")
        row.operator("orrery.repair_backend")
        row.operator("orrery.remove_backend", icon="TRASH")
        installer = current.installer
        if installer.running:
            box.progress(factor=installer.fraction, text=installer.words.capitalize())
            box.operator("orrery.cancel_install", icon="CANCEL")
        if installer.running or installer.error is not None:
            for line in list(installer.lines)[-4:]:
                box.label(text=line[:80])
        elif installer.words:
            box.label(text=installer.words.capitalize(), icon="INFO")
        if installer.error is not None:
            error_box(box, installer.error)
        if isinstance(chosen, bpy.types.AddonPreferences):
            box = layout.box()
            box.label(text="On another machine", icon="NETWORK_DRIVE")
            box.prop(chosen, "connection_file", text="")
            if not bpy.app.online_access:
                paragraph(box, "Blender is offline: only this machine is reached.", "INFO")
        if chosen.show_frame_times:
            seconds, what = current.frames.worst()
            box = layout.box()
            box.label(text=f"Longest turn {1000 * seconds:.1f} ms ({what})", icon="TIME")
            box.label(text=f"{current.frames.over()} of {len(current.frames.ticks)} over 16 ms")
            box.operator("orrery.save_frame_times")


def _draw_versions(layout: bpy.types.UILayout, jobs: JobList) -> None:
    if jobs.link is not Link.READY:
        return
    layout.label(text=jobs.server)
    if jobs.version and jobs.version != version():
        box = layout.box()
        words = f"The add-on is version {version()}, the backend {jobs.version}."
        paragraph(box, words, "INFO")
        if not jobs.host:
            fix_buttons(box, [fixes.UPDATE])
