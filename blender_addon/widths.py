"""How a panel's row becomes a column where the sidebar is too narrow for it."""

import bpy

_NARROW = 250
"""Pixels of a sidebar at scale 1; below, words beside one another are cut off."""


def narrow() -> bool:
    """Whether this region is too narrow for words beside one another."""
    region = bpy.context.region
    return region is not None and region.width / bpy.context.preferences.system.ui_scale < _NARROW


def beside(layout: bpy.types.UILayout) -> bpy.types.UILayout:
    """A row of buttons that touch, or a column where they would be cut off."""
    return layout.column(align=True) if narrow() else layout.row(align=True)
