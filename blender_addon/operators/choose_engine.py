"""Choose the engine of one stage; the menu's entries."""

import bpy

from ..properties import STAGES, settings


class ORRERY_OT_choose_engine(bpy.types.Operator):
    """Do this stage with this engine"""

    bl_idname = "orrery.choose_engine"
    bl_label = "Choose Engine"
    bl_options = {"INTERNAL", "UNDO"}

    stage: bpy.props.StringProperty()
    engine: bpy.props.StringProperty()
    summary: bpy.props.StringProperty(options={"SKIP_SAVE"})

    @classmethod
    def description(cls, context: bpy.types.Context, properties: "ORRERY_OT_choose_engine") -> str:
        return properties.summary or cls.__doc__

    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.stage not in STAGES:
            self.report({"ERROR"}, f"There is no stage '{self.stage}'")
            return {"CANCELLED"}
        setattr(settings(context), f"engine_{self.stage}", self.engine)
        return {"FINISHED"}
