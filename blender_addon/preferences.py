"""Preferences of the add-on: which backend, and whether Blender may start one."""

import bpy

PACKAGE = __package__
"""`bl_ext.REPOSITORY.orrery` as an installed extension, `blender_addon` from the source tree."""


class OrreryPreferences(bpy.types.AddonPreferences):
    """How to reach the backend."""

    bl_idname = PACKAGE

    python: bpy.props.StringProperty(
        name="Backend Python",
        description="Python that has the backend installed (empty: ORRERY_PYTHON, then python3 on PATH)",
        subtype="FILE_PATH",
    )
    auto_start: bpy.props.BoolProperty(
        name="Start a Local Backend",
        description="Start the backend on this machine when none is running; it ends with Blender",
        default=True,
    )
    connection_file: bpy.props.StringProperty(
        name="Connection File",
        description="Where the backend wrote its address and token (empty: the usual place)",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "auto_start")
        layout.prop(self, "python")
        layout.prop(self, "connection_file")


class Defaults:
    """Stands in while the add-on runs without being installed (tests, scripts)."""

    python = ""
    auto_start = True
    connection_file = ""


def preferences(context: bpy.types.Context | None = None) -> OrreryPreferences | Defaults:
    """The user's preferences."""
    addon = (context or bpy.context).preferences.addons.get(PACKAGE)
    found = addon.preferences if addon is not None else None
    return found if found is not None else Defaults()
