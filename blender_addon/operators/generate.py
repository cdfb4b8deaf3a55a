"""*Generate*: picture and settings -> a job."""

import secrets

import bpy

from shared_protocol.errors import OrreryError

from .. import picture, session
from ..jobs import Job
from ..properties import FROM_FILE, settings


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
        if current.jobs.active is not None:
            cls.poll_message_set("A job is running; wait for it or cancel it")
            return False
        if chosen.source == FROM_FILE and not chosen.path.strip():
            cls.poll_message_set("Choose a picture file first")
            return False
        if chosen.source != FROM_FILE and chosen.image is None:
            cls.poll_message_set("Choose an image first")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        chosen = settings(context)
        try:
            if chosen.source == FROM_FILE:
                name, read = picture.from_file(chosen.path)
            else:
                name, read = picture.from_image(chosen.image)
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        job = Job(
            id=secrets.token_hex(16),
            name=name,
            seed=chosen.seed,
            settings={
                "quality": chosen.quality,
                "engines": chosen.engines(),
                "options": chosen.options(),
            },
        )
        session.current().submit(job, read)
        return {"FINISHED"}
