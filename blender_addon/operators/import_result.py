"""*Import*: put the files of a finished job into the scene, as one undo step."""

import bpy

from .. import session
from ..jobs import State
from ..panels.words import sentence
from .of_job import OfJob


class ORRERY_OT_import_result(OfJob, bpy.types.Operator):
    """Add the mesh and the Gaussians of this job to the scene"""

    bl_idname = "orrery.import_result"
    bl_label = "Import"

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        if current.importing is not None:
            self.report({"ERROR"}, "Another result is being imported; wait for it")
            return {"CANCELLED"}
        if job.folder is None or not job.folder.is_dir():
            job.offered = False  # into the scene as soon as it is here
            current.fetch(job)
            return {"FINISHED"}
        if context.mode != "OBJECT":
            bpy.ops.object.mode_set(mode="OBJECT")
        job.offered = False
        current.begin_import(job)
        if bpy.app.background:
            current.finish_import()
        if job.state is State.FAILED:
            self.report({"ERROR"}, sentence(str(job.error)))
            return {"CANCELLED"}
        return {"FINISHED"}
