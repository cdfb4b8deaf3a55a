"""Gaussians in Blender: their layout, how they are shown, edited, read and written.

layout, nodes, importing    attributes of a data-block; geometry nodes and material; files to objects
view, order, atlas, shaders, painter    the drawing on the GPU
viewport                    the handler that draws in 3D views
"""

from . import viewport


def register() -> None:
    """Called when the add-on is switched on."""
    viewport.register()


def unregister() -> None:
    """Called when the add-on is switched off."""
    viewport.unregister()
