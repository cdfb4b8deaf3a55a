"""The jobs that go on: stage, step, time left, what they look like so far."""

import time

import bpy

from .. import estimate
from ..jobs import Job, JobList, Link, State
from ..properties import STAGE_LABELS
from ..thumbnails import icon
from ..widths import narrow
from .words import paragraph

SHOWN_WAITING = 6
NAME_BESIDE = 12
"""Characters of a name that leave room for the time left."""


def draw_queue(layout: bpy.types.UILayout, jobs: JobList) -> None:
    """The running jobs in full, those that wait in a line each."""
    queue = jobs.queue
    waiting = [job for job in queue if job.state is State.QUEUED]
    for job in queue:
        if job not in waiting:
            _draw_job(layout, job, jobs)
    if not waiting and not jobs.paused:
        return
    box = layout.box()
    row = box.row()
    row.label(text=f"{len(waiting)} waiting" if waiting else "No job waits", icon="SORTTIME")
    words, mark = ("Resume Queue", "PLAY") if jobs.paused else ("Pause Queue", "PAUSE")
    row.operator("orrery.pause", text=words, icon=mark)
    for number, job in enumerate(waiting[:SHOWN_WAITING]):
        row = box.row(align=True)
        row.label(text=f"{job.name} (seed {job.seed})", icon="DOT")
        if number:
            row.operator("orrery.move_first", text="", icon="TRIA_UP_BAR").job = job.id
        row.operator("orrery.cancel", text="", icon="X").job = job.id
    if len(waiting) > SHOWN_WAITING:
        box.label(text=f"and {len(waiting) - SHOWN_WAITING} more")
    if jobs.paused and waiting:
        paragraph(box, "The queue is paused: no waiting job is begun.", "INFO")


def _draw_job(layout: bpy.types.UILayout, job: Job, jobs: JobList) -> None:
    box = layout.box()
    row = box.column() if narrow() or len(job.name) > NAME_BESIDE else box.row()
    row.label(text=job.name, icon="MESH_MONKEY")
    if job.state is State.RUNNING and job.stage:
        title = f"{STAGE_LABELS.get(job.stage, job.stage)} ({job.index + 1} of {job.stages})"
    else:
        title = job.state.value.capitalize()
    box.progress(factor=job.fraction, type="BAR", text=title)
    left = estimate.left(job, jobs.jobs.values(), time.time())
    row.label(text=f"{estimate.words(left)} left" if left is not None else "")
    # Above all that changes its height: it must stay under the mouse.
    box.operator("orrery.cancel", icon="CANCEL").job = job.id
    if jobs.link is Link.LOST:
        paragraph(box, "The connection is lost; the job goes on as soon as it is back.", "ERROR")
    if job.text:
        paragraph(box, job.text[:1].upper() + job.text[1:])
    if job.reused:
        names = ", ".join(STAGE_LABELS.get(stage, stage).lower() for stage in job.reused)
        paragraph(box, f"Taken from an earlier job: {names}.", "RECOVER_LAST")
    _draw_previews(box, job)


def _draw_previews(layout: bpy.types.UILayout, job: Job) -> None:
    """The newest picture large, the cut-out and the orbit as a strip."""
    if job.picture is None:
        return
    layout.template_icon(icon_value=icon(job.picture), scale=7)
    strip = [*job.previews.get("cutout", ())[-1:], *job.previews.get("orbit", ())]
    if len(strip) > 1:
        row = layout.row(align=True)
        for path in strip[-7:]:
            row.template_icon(icon_value=icon(path), scale=1.6)
