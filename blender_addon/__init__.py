"""Orrery in Blender: registers the panel, its operators and the session with the backend."""

import bpy

from . import operators, panels, preferences, properties, session, splats, thumbnails

CLASSES = (
    preferences.OrreryPreferences,
    properties.OrrerySettings,
    *operators.CLASSES,
    *panels.CLASSES,
)


def register() -> None:
    """Called by Blender when the add-on is switched on."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.register()
    splats.register()
    session.register()


def unregister() -> None:
    """Called by Blender when the add-on is switched off, and when it quits."""
    session.unregister()
    thumbnails.unregister()
    splats.unregister()
    properties.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
