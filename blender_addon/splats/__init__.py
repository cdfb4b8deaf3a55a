"""Gaussians in Blender: their layout, how they are shown, edited, read and written.

layout, columns, importing              attributes of a data-block; files to objects
nodes, node_kit, template               what Blender itself shows: nodes and materials, made or appended
view, order, atlas, shaders, painter    the drawing on the GPU
viewport                                the handler that draws in 3D views
transform, editing, files, panel        what the buttons and menus do
"""

import bpy

from . import editing, files, panel, rendering, template, upgrade, viewport

CLASSES = (*files.CLASSES, *editing.CLASSES, *rendering.CLASSES, *upgrade.CLASSES, *panel.CLASSES)


def register() -> None:
    """Called when the add-on is switched on."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    files.register()
    viewport.register()


def unregister() -> None:
    """Called when the add-on is switched off."""
    viewport.unregister()
    files.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    template.forget()
