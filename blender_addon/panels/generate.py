"""*Generate 3D from Image*: source, quality, the button, progress, errors."""

import bpy

from .. import session
from ..jobs import Job, JobList, Link, State
from ..properties import FROM_FILE, STAGE_LABELS, settings
from .words import CATEGORY, error_box, paragraph

_LINK_ICONS = {
    Link.OFF: "UNLINKED",
    Link.STARTING: "SORTTIME",
    Link.CONNECTING: "SORTTIME",
    Link.READY: "LINKED",
    Link.LOST: "ERROR",
}


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
        chosen = settings(context)
        column = layout.column()
        column.enabled = current.jobs.active is None
        column.row().prop(chosen, "source", expand=True)
        if chosen.source == FROM_FILE:
            column.prop(chosen, "path", text="")
        else:
            column.template_ID(chosen, "image", open="image.open")
        column.row().prop(chosen, "quality", expand=True)
        column.prop(chosen, "seed")
        row = layout.row()
        row.scale_y = 1.5
        row.operator("orrery.generate", icon="MESH_MONKEY")
        job = current.jobs.active
        if job is not None:
            _draw_progress(layout, job)
        latest = current.jobs.latest
        if current.jobs.error is not None:
            error_box(layout, current.jobs.error)
        elif latest is not None and latest.error is not None:
            error_box(layout, latest.error)
        elif latest is not None and latest.final:
            _draw_outcome(layout, latest)


def _draw_link(layout: bpy.types.UILayout, jobs: JobList) -> None:
    row = layout.row()
    words = jobs.server if jobs.link is Link.READY else jobs.link.value.capitalize()
    row.label(text=words, icon=_LINK_ICONS[jobs.link])
    if jobs.link in (Link.OFF, Link.LOST):
        row.operator("orrery.connect")


def _draw_progress(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    if job.state is State.RUNNING and job.stage:
        title = f"{STAGE_LABELS.get(job.stage, job.stage)} ({job.index + 1} of {job.stages})"
    else:
        title = job.state.value.capitalize()
    box.progress(factor=job.fraction, type="BAR", text=title)
    if job.text:
        paragraph(box, job.text[:1].upper() + job.text[1:])
    box.operator("orrery.cancel", icon="CANCEL")


def _draw_outcome(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    icon = "CHECKMARK" if job.state is State.IMPORTED else "CANCEL"
    row = box.row()
    row.label(text=f"{job.name}: {job.state.value}", icon=icon)
    if job.folder is not None:
        row.operator("orrery.import_result", text="", icon="IMPORT").job = job.id
    for warning in job.warnings:
        paragraph(box, warning, icon="INFO")
