"""*Generate*: source, quality, the button with its estimate, the queue, errors."""

import bpy

from .. import estimate, fixes, session
from ..job_types import job_type, why_not
from ..jobs import Job, JobList, Link, State
from ..properties import settings
from ..widths import beside, narrow
from .backend import draw_installer
from .queue import draw_queue
from .words import CATEGORY, LINK_ICONS, error_box, fix_buttons, paragraph


class ORRERY_PT_generate(bpy.types.Panel):
    """Picture in, mesh and Gaussians out."""

    bl_label = "Generate 3D from Image"
    bl_idname = "ORRERY_PT_generate"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        current = session.current()
        if current is None:
            return
        _draw_link(layout, current.jobs)
        _draw_first_use(layout, current)
        _draw_away(layout, current.jobs)
        chosen = settings(context)
        kind = job_type(chosen)
        column = layout.column()
        column.row().prop(chosen, "source", expand=True)
        if reason := why_not(kind, current.jobs.recipes):
            paragraph(column, f"{reason}.", "INFO")
        else:
            kind.draw(column, chosen)
        column.row().prop(chosen, "quality", expand=True)
        row = beside(column)
        row.prop(chosen, "seed")
        row.prop(chosen, "variations")
        row = layout.row()
        row.scale_y = 1.5
        text = "Add to Queue" if current.jobs.active is not None else "Generate"
        row.operator("orrery.generate", text=text, icon="MESH_MONKEY")
        seconds = estimate.whole(current.jobs.jobs.values(), chosen.quality, kind.recipe)
        layout.label(text=f"Takes {estimate.words(seconds * chosen.variations)}", icon="TIME")
        draw_queue(layout, current.jobs)
        _draw_notice(layout, current.jobs)
        if current.jobs.error is not None:
            error_box(layout, current.jobs.error)
        latest = current.jobs.latest
        if latest is None or latest.going_on:
            return
        if latest.error is not None:
            if latest.error is not current.jobs.error and not latest.seen:
                error_box(layout, latest.error, latest.id, retry=bool(latest.inputs))
        elif not latest.offered:
            _draw_outcome(layout, latest)


def _draw_link(layout: bpy.types.UILayout, jobs: JobList) -> None:
    words, icon = jobs.link.value.capitalize(), LINK_ICONS[jobs.link]
    if jobs.link is Link.OFF:
        row = layout.column() if narrow() else layout.row()
        row.label(text=words, icon=icon)
        row.operator("orrery.connect")
    else:
        paragraph(layout, jobs.server if jobs.link is Link.READY else words, icon)


def _draw_notice(layout: bpy.types.UILayout, jobs: JobList) -> None:
    """Below the buttons: it comes by itself, and must not push one from under the mouse."""
    if jobs.notice:
        row = layout.box().row()
        paragraph(row, jobs.notice, "INFO", beside=1)
        row.operator("orrery.dismiss", text="", icon="X", emboss=False)


def _draw_first_use(layout: bpy.types.UILayout, current: session.Session) -> None:
    """Nothing works without a backend: where none was ever used, how to get one."""
    if current.jobs.link is not Link.OFF or current.jobs.error is not None or current.jobs.jobs:
        return
    if current.installer.running:
        draw_installer(layout.box(), current.installer)
    elif not session.backend_chosen():
        box = layout.box()
        paragraph(box, "The backend, which does the work, is not installed yet.", "INFO")
        fix_buttons(box, [fixes.INSTALL, fixes.SETTINGS])


def _draw_away(layout: bpy.types.UILayout, jobs: JobList) -> None:
    """Jobs that an earlier Blender left."""
    away = jobs.away()
    if away and jobs.link is Link.OFF:
        box = layout.box()
        many = f"{len(away)} jobs were" if len(away) > 1 else f"'{away[0].name}' was"
        paragraph(box, f"{many} going on when Blender was closed.", "RECOVER_LAST")
        box.operator("orrery.connect", text="Find Again", icon="FILE_REFRESH")
    for job in jobs.jobs.values():
        if job.state is State.RECEIVED and job.offered and not (job.client or job.group or job.seen):
            box = layout.box()
            row = box.row()
            paragraph(row, f"'{job.name}', begun before Blender was closed, is done.", "CHECKMARK", beside=1)
            row.operator("orrery.dismiss", text="", icon="X", emboss=False).job = job.id
            box.operator("orrery.import_result", text="Import", icon="IMPORT").job = job.id


def _draw_outcome(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    icon = "CHECKMARK" if job.state is State.IMPORTED else "CANCEL"
    row = box.row()
    row.label(text=f"{job.name}: {job.state.value}", icon=icon)
    if job.folder is not None:
        row.operator("orrery.import_result", text="", icon="IMPORT").job = job.id
    if job.inputs:
        row.operator("orrery.rerun", text="", icon="LOOP_FORWARDS").job = job.id
    for warning in job.warnings:
        paragraph(box, warning, icon="INFO")
