"""Every job with its thumbnail, settings and seed; jobs to choose from; what can be done with each."""

import datetime

import bpy

from .. import session
from ..jobs import Job, State
from ..thumbnails import icon
from ..widths import narrow
from .words import CATEGORY, error_box, paragraph, sentence


class ORRERY_PT_variations(bpy.types.Panel):
    """Results that were made to choose from."""

    bl_label = "Variations"
    bl_idname = "ORRERY_PT_variations"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(_newest_group())

    def draw(self, context: bpy.types.Context) -> None:
        grid = self.layout.grid_flow(row_major=True, columns=2, even_columns=True)
        for job in _newest_group():
            box = grid.box()
            _draw_picture(box, job, 5)
            box.label(text=f"Seed {job.seed}")
            if job.state is State.RECEIVED:
                box.operator("orrery.import_result", text="Take This", icon="IMPORT").job = job.id
            else:
                box.label(text=job.state.value.capitalize())


def _newest_group() -> list[Job]:
    current = session.current()
    jobs = list(current.jobs.jobs.values()) if current is not None else []
    newest = next((job.group for job in reversed(jobs) if job.group), "")
    return [job for job in jobs if newest and job.group == newest]


class ORRERY_PT_history(bpy.types.Panel):
    """Earlier jobs."""

    bl_label = "History"
    bl_idname = "ORRERY_PT_history"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        return current is not None and any(not job.going_on for job in current.jobs.jobs.values())

    def draw(self, context: bpy.types.Context) -> None:
        jobs = [job for job in session.current().jobs.jobs.values() if not job.going_on]
        shown = session.current().shown
        for job in jobs[::-1][:shown]:
            _draw_entry(self.layout, job)
        if len(jobs) > shown:
            self.layout.operator("orrery.show_older", text=f"Show Older ({len(jobs) - shown})")


def _draw_entry(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    split = box.split(factor=0.28)
    _draw_picture(split, job, 3)
    column = split.column(align=True)
    column.label(text=job.name)
    made = datetime.datetime.fromtimestamp(job.created).strftime("%d %b %H:%M") if job.created else ""  # noqa: DTZ006
    quality = job.settings.get("quality", "standard").title()
    column.label(text=f"{quality}, seed {job.seed}")
    if made:
        column.label(text=made)
    if job.state is not State.IMPORTED:
        column.label(text=sentence(job.state.value))
    row = column.row(align=True)
    if job.folder is not None or job.state in (State.IMPORTED, State.RECEIVED, State.STORED):
        text = "" if narrow() else "Import"
        row.operator("orrery.import_result", text=text, icon="IMPORT").job = job.id
    if job.inputs:
        row.operator("orrery.rerun", text="", icon="LOOP_FORWARDS").job = job.id
        row.operator("orrery.retry_with_changes", text="", icon="GREASEPENCIL").job = job.id
    row.operator("orrery.show_log", text="", icon="TEXT").job = job.id
    row.operator("orrery.delete_job", text="", icon="TRASH").job = job.id
    options = job.settings.get("options", {})
    if options:
        paragraph(box, ", ".join(f"{name} {value}" for name, value in options.items()))
    if job.error is not None:
        error_box(box, job.error, job.id, retry=bool(job.inputs), hide=False)


def _draw_picture(layout: bpy.types.UILayout, job: Job, scale: float) -> None:
    number = icon(job.picture) if job.picture is not None else 0
    if number:
        layout.template_icon(icon_value=number, scale=scale)
    else:
        layout.label(text="", icon="IMAGE_DATA")
