"""*Generate*: inputs and settings -> a job, or several to choose from."""

import secrets

import bpy

from shared_protocol.errors import OrreryError

from .. import session
from ..job_types import job_type, why_not
from ..jobs import Job
from ..panels.words import sentence
from ..properties import settings
from ..sending import Order


class ORRERY_OT_generate(bpy.types.Operator):
    """Make a textured mesh and Gaussians from the chosen picture"""

    bl_idname = "orrery.generate"
    bl_label = "Generate"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        if current is None:
            return False
        chosen = settings(context)
        kind = job_type(chosen)
        if reason := why_not(kind, current.jobs.recipes) or kind.missing(chosen):
            cls.poll_message_set(reason)
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        chosen = settings(context)
        kind = job_type(chosen)
        try:
            name, inputs = kind.inputs(chosen)
        except OrreryError as error:
            self.report({"ERROR"}, sentence(str(error)))
            return {"CANCELLED"}
        wanted = {
            "quality": chosen.quality,
            "engines": chosen.engines(),
            "options": chosen.options(),
        }
        group = secrets.token_hex(8) if chosen.variations > 1 else ""
        for number in range(chosen.variations):
            job = Job(
                id=secrets.token_hex(16),
                name=name,
                seed=chosen.seed + number,
                settings=wanted,
                recipe=kind.recipe,
                group=group,
                offered=bool(group),  # one is chosen, the others stay out of the scene
            )
            session.current().submit(job, Order(name, kind.recipe, inputs, wanted, job.seed))
        return {"FINISHED"}
