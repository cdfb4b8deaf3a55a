"""Which engine does each stage; those that are not ready say why."""

import bpy

from .. import session
from ..fixes import of_remedy
from ..properties import AUTO, STAGE_LABELS, STAGES, settings
from .words import CATEGORY, fix_buttons, paragraph


class ORRERY_PT_engines(bpy.types.Panel):
    """Engine of each stage."""

    bl_label = "Engines"
    bl_idname = "ORRERY_PT_engines"
    bl_parent_id = "ORRERY_PT_generate"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        current = session.current()
        if current is None or not current.jobs.engines:
            paragraph(layout, "Connect to see the backend's engines.")
            return
        chosen = settings(context)
        for stage in STAGES:
            row = layout.split(factor=0.42)
            row.label(text=STAGE_LABELS[stage])
            name = getattr(chosen, f"engine_{stage}")
            row.menu(f"ORRERY_MT_engine_{stage}", text="Automatic" if name == AUTO else name)
        waiting = [entry for entry in current.jobs.engines if not entry["ready"]]
        for entry in waiting:
            box = layout.box()
            stage = STAGE_LABELS.get(entry["stage"], entry["stage"])
            paragraph(box, f"{stage}: {entry['name']} is not ready, {entry['reason']}.", "INFO")
            if entry.get("remedy"):
                paragraph(box, entry["remedy"])
                fix_buttons(box, of_remedy(entry["remedy"]))


class _EngineMenu:
    """The engines of one stage."""

    bl_label = "Engine"
    stage = ""

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        _entry(layout, self.stage, AUTO, "Automatic", "The best engine that is ready and fits the picture")
        layout.separator()
        current = session.current()
        for entry in current.jobs.engines if current is not None else ():
            if entry["stage"] != self.stage:
                continue
            if entry["ready"]:
                _entry(layout, self.stage, entry["name"], entry["name"], entry.get("summary", ""))
            else:
                row = layout.row()
                row.enabled = False
                row.label(text=f"{entry['name']}: {entry['reason']}", icon="LOCKED")


def _entry(layout: bpy.types.UILayout, stage: str, name: str, text: str, summary: str) -> None:
    choice = layout.operator("orrery.choose_engine", text=text)
    choice.stage, choice.engine, choice.summary = stage, name, summary


ENGINE_MENUS = tuple(
    type(
        f"ORRERY_MT_engine_{stage}",
        (_EngineMenu, bpy.types.Menu),
        {"bl_idname": f"ORRERY_MT_engine_{stage}", "stage": stage, "__doc__": STAGE_LABELS[stage]},
    )
    for stage in STAGES
)
