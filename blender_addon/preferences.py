"""Preferences of the add-on: which backend, where it is installed, and what is shown."""

import bpy

from .backend_install import CPU_TORCH, CUDA_TORCH, NO_TORCH

PACKAGE = __package__
"""`bl_ext.REPOSITORY.orrery` as an installed extension, `blender_addon` from the source tree."""


class OrreryPreferences(bpy.types.AddonPreferences):
    """How to reach the backend."""

    bl_idname = PACKAGE

    backend_folder: bpy.props.StringProperty(
        name="Backend Folder",
        description="Where the add-on installs the backend (empty: the extension's user folder)",
        subtype="DIR_PATH",
    )
    torch: bpy.props.EnumProperty(
        name="Torch",
        description="The built-in engines need none; engines with published weights do",
        items=(
            (NO_TORCH, "None", "The built-in engines only: a small download"),
            (CPU_TORCH, "CPU", "Engines that need torch, on the processor"),
            (CUDA_TORCH, "CUDA", "Engines that need torch, on an NVIDIA GPU: several gigabytes"),
        ),
    )
    token: bpy.props.StringProperty(
        name="Access Token",
        description="Of the hub that holds published weights; a backend that is started here gets it",
        subtype="PASSWORD",
    )
    python: bpy.props.StringProperty(
        name="Backend Python",
        description="Python that has the backend installed (empty: the one installed here, "
        "ORRERY_PYTHON, then python3 on PATH)",
        subtype="FILE_PATH",
    )
    auto_start: bpy.props.BoolProperty(
        name="Start a Local Backend",
        description="Start the backend on this machine when none is running. It ends with Blender, or, "
        "when jobs are left, after them",
        default=True,
    )
    connection_file: bpy.props.StringProperty(
        name="Connection File",
        description="Where the backend wrote its address and token, or what `keygen` made for another "
        "machine (empty: the usual place)",
        subtype="FILE_PATH",
    )
    patience: bpy.props.FloatProperty(
        name="Time-Out",
        description="Seconds without an answer, after which the connection counts as lost",
        default=6.0,
        min=3.0,
        soft_max=60.0,
        precision=0,
        subtype="TIME_ABSOLUTE",
    )
    show_frame_times: bpy.props.BoolProperty(
        name="Show Frame Times", description="Show in the panel how long the add-on holds up the window"
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(self, "backend_folder")
        layout.prop(self, "torch")
        row = layout.row(align=True)
        row.operator("orrery.install_backend")
        row.operator("orrery.repair_backend")
        row.operator("orrery.remove_backend")
        layout.separator()
        layout.prop(self, "auto_start")
        layout.prop(self, "python")
        layout.prop(self, "connection_file")
        layout.prop(self, "patience")
        layout.prop(self, "token")
        layout.separator()
        layout.prop(self, "show_frame_times")


class Defaults:
    """Stands in while the add-on runs without being installed (tests, scripts)."""

    backend_folder = ""
    torch = NO_TORCH
    token = ""
    python = ""
    auto_start = True
    connection_file = ""
    patience = 6.0
    show_frame_times = False


def preferences(context: bpy.types.Context | None = None) -> OrreryPreferences | Defaults:
    """The user's preferences."""
    addon = (context or bpy.context).preferences.addons.get(PACKAGE)
    found = addon.preferences if addon is not None else None
    return found if found is not None else Defaults()
