"""Text in a narrow sidebar: Blender's labels do not wrap, so lines are broken here."""

import re
import textwrap

import bpy

from shared_protocol.errors import OrreryError

from .. import fixes
from ..jobs import Link
from ..widths import narrow

CATEGORY = "Orrery"
LINK_ICONS = {
    Link.OFF: "UNLINKED",
    Link.STARTING: "SORTTIME",
    Link.CONNECTING: "SORTTIME",
    Link.READY: "LINKED",
    Link.LOST: "ERROR",
}
_PIXELS_A_CHARACTER = 6.5


def sentence(text: str) -> str:
    """The same with a capital, but for a file's name, which keeps what it has."""
    first = text.partition(" ")[0]
    return text if re.search(r"[./\\_\d]", first) else text[:1].upper() + text[1:]


def options(layout: bpy.types.UILayout, owner: bpy.types.PropertyGroup, *names: str) -> None:
    """Fields with their labels beside or in them, as there is room; none of these settings is animated."""
    layout.use_property_split, layout.use_property_decorate = not narrow(), False
    for name in names:
        setting = owner.bl_rna.properties[name]
        if narrow() and setting.type == "ENUM":
            row = layout.split(factor=0.42)
            row.label(text=setting.name)
            row.prop(owner, name, text="")
        else:
            layout.prop(owner, name)


def paragraph(layout: bpy.types.UILayout, text: str, icon: str = "NONE", beside: int = 0) -> None:
    """Draw `text` over as many lines as the region's width asks for; beside: buttons in the same row."""
    region = bpy.context.region
    scale = bpy.context.preferences.system.ui_scale
    width = region.width if region is not None else 220
    taken = (6 if icon == "NONE" else 12) + 4 * beside  # margins and tabs, the icon, a button each
    characters = max(12, int(width / scale / _PIXELS_A_CHARACTER) - taken)
    lines = textwrap.wrap(text, characters)
    column = layout.column(align=True)
    column.scale_y = 0.8 if len(lines) > 1 else 1.0
    for index, line in enumerate(lines):
        column.label(text=line, icon="BLANK1" if index and icon != "NONE" else icon)


def error_box(
    layout: bpy.types.UILayout, error: OrreryError, job: str = "", retry: bool = False, hide: bool = True
) -> None:
    """What was found, what to do, buttons that do it, and one that hides it.

    job    the one that failed, "" for none
    retry  its pictures are here
    """
    box = layout.box()
    row = box.row()
    paragraph(row, "Something went wrong", "ERROR", beside=1)
    if hide:
        row.operator("orrery.dismiss", text="", icon="X", emboss=False).job = job
    expected = f"; expected {error.expected}" if error.expected else ""
    paragraph(box, sentence(f"{error.found}{expected}".rstrip(".") + "."))
    if error.remedy:
        paragraph(box, error.remedy, icon="INFO")
    fix_buttons(box, fixes.of_error(error, job, retry))


def fix_buttons(layout: bpy.types.UILayout, found: list[fixes.Fix]) -> None:
    """One button a remedy, each as wide as the panel; where one needs the network, how to allow it."""
    if not found:
        return
    column = layout.column(align=True)
    for fix in fixes.reachable(found, bool(bpy.app.online_access)):
        button = column.operator(fix.operator, text=fix.label, icon=fix.icon)
        for name, value in fix.properties.items():
            setattr(button, name, value)
