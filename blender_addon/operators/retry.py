"""*Retry*, *Retry with Changes* and *Run Again From*: another job from the input of an earlier one."""

import secrets
from pathlib import Path
from typing import Any

import bpy

from shared_protocol.errors import AccessDenied

from .. import history, session
from ..jobs import Job
from ..properties import FROM_FILE, LEAST_FACES, TEXTURE_SIZES, settings
from ..sending import Order, Reader
from .of_job import OfJob

NO_INPUT = "The picture of this job is not kept here: another program sent it"


def submit_again(job: Job, changes: dict[str, Any], seed: int, quality: str = "") -> Job:
    """Send the inputs of `job` again, with changed stage options; stages before the first change are
    taken from the backend's store."""
    wanted = {
        **job.settings,
        "quality": quality or job.settings.get("quality", "standard"),
        "options": {**job.settings.get("options", {}), **changes},
    }
    again = Job(secrets.token_hex(16), job.name, seed, wanted, recipe=job.recipe)
    folder = history.job_folder(session.user_folder(), job.id)
    inputs = tuple((history.own_name(name), _reader(folder / name)) for name in job.inputs)
    session.current().submit(again, Order(job.name, job.recipe, inputs, wanted, seed))
    return again


def _reader(path: Path) -> Reader:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise AccessDenied(
                f"the kept picture {path} cannot be read", remedy="Choose the picture again."
            ) from error

    return read


class _OfInputs(OfJob):
    """Mixed into an operator that sends a job's pictures again."""

    def found(self) -> Job | None:
        """The job, or None after a report: also where its pictures are not kept here."""
        job = super().found()
        if job is not None and not job.inputs:
            self.report({"ERROR"}, NO_INPUT)
            return None
        return job


class ORRERY_OT_retry(_OfInputs, bpy.types.Operator):
    """Run this job again with the same picture, settings and seed"""

    bl_idname = "orrery.retry"
    bl_label = "Retry"

    quality: bpy.props.StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        job.seen = True
        submit_again(job, {}, job.seed, self.quality)
        return {"FINISHED"}


class ORRERY_OT_retry_with_changes(OfJob, bpy.types.Operator):
    """Put the picture, settings and seed of this job into the panel, to change them"""

    bl_idname = "orrery.retry_with_changes"
    bl_label = "Retry with Changes"
    bl_options = {"UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        chosen = settings(context)
        chosen.take_over(job.settings, job.seed)
        if len(job.inputs) == 1 and job.recipe == "image_to_3d":
            chosen.source = FROM_FILE
            chosen.path = str(history.job_folder(session.user_folder(), job.id) / job.inputs[0])
        elif not job.inputs:
            self.report({"INFO"}, "The settings are taken over; choose the picture")
        return {"FINISHED"}


class ORRERY_OT_rerun(_OfInputs, bpy.types.Operator):
    """Run this job again from a later stage on; what came before is not computed again"""

    bl_idname = "orrery.rerun"
    bl_label = "Run Again From"

    stage: bpy.props.EnumProperty(
        name="From",
        items=(
            ("texture", "Texture", "A new texture on the same mesh"),
            ("surface", "Surface", "A new mesh and texture from the same Gaussians"),
            ("start", "Start", "All anew, with another seed"),
        ),
    )
    texture_size: bpy.props.EnumProperty(
        name="Texture", items=[(s, f"{s} px" if s != "0" else "By Quality", "") for s in TEXTURE_SIZES]
    )
    normal_map: bpy.props.BoolProperty(name="Normal Map")
    delight: bpy.props.BoolProperty(name="Remove Lighting")
    faces: bpy.props.IntProperty(name="Triangles", description="0: by quality", min=0, max=500_000)
    quads: bpy.props.BoolProperty(name="Quads")
    seed: bpy.props.IntProperty(name="Seed", min=0, max=2**31 - 1)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        options = job.settings.get("options", {})
        self.texture_size = str(options.get("texture.size", "0"))
        self.normal_map = bool(options.get("texture.normal_map"))
        self.delight = bool(options.get("texture.delight"))
        self.faces, self.quads = int(options.get("surface.faces", 0)), bool(options.get("surface.quads"))
        self.seed = job.seed + 1
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(self, "stage")
        if self.stage == "start":
            layout.prop(self, "seed")
            return
        if self.stage == "surface":
            layout.prop(self, "faces")
            layout.prop(self, "quads")
        layout.prop(self, "texture_size")
        layout.prop(self, "normal_map")
        layout.prop(self, "delight")

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        if self.stage == "start":
            submit_again(job, {}, self.seed)
            return {"FINISHED"}
        changes: dict[str, Any] = {"texture.normal_map": self.normal_map, "texture.delight": self.delight}
        if self.texture_size != "0":
            changes["texture.size"] = int(self.texture_size)
        if self.stage == "surface":
            changes["surface.quads"] = self.quads
            if self.faces:
                changes["surface.faces"] = max(self.faces, LEAST_FACES)
        submit_again(job, changes, job.seed)
        return {"FINISHED"}
