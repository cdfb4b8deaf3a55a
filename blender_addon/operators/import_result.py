"""Put the files of a finished job into the scene: one undo step."""

import bpy

from shared_protocol.errors import OrreryError

from .. import session
from ..importers.result import Provenance, import_result
from ..jobs import State
from ..properties import settings


class ORRERY_OT_import_result(bpy.types.Operator):
    """Add the mesh and the Gaussians of this job to the scene"""

    bl_idname = "orrery.import_result"
    bl_label = "Import Result"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}

    job: bpy.props.StringProperty(options={"SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = session.current().jobs.jobs.get(self.job)
        if job is None or job.folder is None:
            self.report({"ERROR"}, "The result of this job has not arrived")
            return {"CANCELLED"}
        if context.mode != "OBJECT":
            bpy.ops.object.mode_set(mode="OBJECT")
        provenance = Provenance(job.id, job.name, job.seed, job.settings)
        try:
            collection = import_result(job.folder, provenance, settings(context).placement(), context.scene)
        except OrreryError as error:
            job.state, job.error = State.FAILED, error
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        job.state, job.collection = State.IMPORTED, collection.name
        return {"FINISHED"}
