"""Which engine does each stage; those that are not ready say why."""

from collections.abc import Iterable
from typing import Any

import bpy

from .. import session
from ..fixes import of_remedy
from ..properties import AUTO, STAGE_LABELS, STAGES, settings
from ..widths import narrow
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
            row = layout.split(factor=0.5 if narrow() else 0.42)
            row.label(text=STAGE_LABELS[stage])
            name = getattr(chosen, f"engine_{stage}")
            row.menu(f"ORRERY_MT_engine_{stage}", text="Automatic" if name == AUTO else name)
        for remedy, words in waiting(current.jobs.engines).items():
            box = layout.box()
            paragraph(box, words, "INFO")
            buttons = of_remedy(remedy)
            if remedy and not buttons:
                paragraph(box, remedy)
            fix_buttons(box, buttons)


def waiting(engines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Remedy -> a sentence about the engines that it would make ready, and what they lack."""
    lacking: dict[str, list[dict[str, Any]]] = {}
    for entry in engines:
        if not entry["ready"]:
            lacking.setdefault(entry.get("remedy", ""), []).append(entry)
    return {remedy: _sentence(entries) for remedy, entries in lacking.items()}


def _sentence(entries: list[dict[str, Any]]) -> str:
    stages: dict[str, list[str]] = {}
    for entry in entries:
        stages.setdefault(STAGE_LABELS.get(entry["stage"], entry["stage"]), []).append(entry["name"])
    names = "; ".join(f"{stage}: {', '.join(found)}" for stage, found in stages.items())
    shortest = min((entry["reason"] for entry in entries), key=len)
    return f"{names}. Not ready, {shortest}{' and more' if len({e['reason'] for e in entries}) > 1 else ''}."


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
