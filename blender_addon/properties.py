"""What the user sets in the panel; stored in the scene, so a file remembers it."""

from typing import Any

import bpy

from .importers.result import SHOW_BOTH, SHOW_GAUSSIANS, SHOW_MESH, Placement

STAGES = ("matting", "orbit", "refine", "splats", "surface", "texture", "export")
"""Stages whose engine can be chosen, in the order of the recipe."""

STAGE_LABELS = {
    "matting": "Cut-out",
    "orbit": "Views around",
    "refine": "Refinement",
    "splats": "Gaussians",
    "surface": "Surface",
    "texture": "Texture",
    "export": "Files",
}
AUTO = "auto"

LEAST_FACES = 100
"""The backend makes no coarser mesh."""

FROM_FILE, FROM_IMAGE = "FILE", "IMAGE"

_SHOW_ITEMS = (
    (SHOW_MESH, "Mesh", "Show the textured mesh", "MESH_DATA", 0),
    (SHOW_GAUSSIANS, "Gaussians", "Show the Gaussians (Cycles)", "POINTCLOUD_DATA", 1),
    (SHOW_BOTH, "Both", "Show both; they overlap", "OVERLAY", 2),
)


def _engine() -> Any:
    return bpy.props.StringProperty(name="Engine", description="How this stage is done", default=AUTO)


class OrrerySettings(bpy.types.PropertyGroup):
    """The settings of *Generate 3D from Image*."""

    source: bpy.props.EnumProperty(
        name="Source",
        items=(
            (FROM_FILE, "File", "A picture file", "FILE_FOLDER", 0),
            (FROM_IMAGE, "Image", "An image already in Blender", "IMAGE_DATA", 1),
        ),
    )
    path: bpy.props.StringProperty(
        name="Picture", description="A picture of one object (PNG, JPEG, WebP ...)", subtype="FILE_PATH"
    )
    image: bpy.props.PointerProperty(name="Image", description="An image of one object", type=bpy.types.Image)
    quality: bpy.props.EnumProperty(
        name="Quality",
        items=(
            ("draft", "Draft", "Under a minute"),
            ("standard", "Standard", "A few minutes"),
            ("high", "High", "Finer views, mesh and texture; takes longer"),
        ),
        default="standard",
    )
    seed: bpy.props.IntProperty(
        name="Seed", description="The same seed and picture give the same result", min=0, max=2**31 - 1
    )
    faces: bpy.props.IntProperty(
        name="Triangles", description="Budget of the mesh; 0 leaves it to the quality", min=0, max=500_000
    )
    quads: bpy.props.BoolProperty(
        name="Quads", description="Remesh to quads, for editing and subdivision; half as many as triangles"
    )
    lods: bpy.props.IntProperty(
        name="Coarser Copies",
        description="Levels of detail, hidden in a collection of their own, each a quarter of the one before",
        min=0,
        max=4,
    )
    normal_map: bpy.props.BoolProperty(
        name="Normal Map", description="Bake what the triangle budget took away into a normal map"
    )
    delight: bpy.props.BoolProperty(
        name="Remove Lighting",
        description="Take the smooth part of the lighting out of the colours and guess a roughness",
    )
    floor: bpy.props.BoolProperty(
        name="Stand on Floor", description="Lift the result so that it stands at height 0", default=True
    )
    cameras: bpy.props.BoolProperty(
        name="Add Cameras", description="Add the views around the object as one animated camera"
    )
    show: bpy.props.EnumProperty(name="Show", items=_SHOW_ITEMS)

    engine_matting: _engine()
    engine_orbit: _engine()
    engine_refine: _engine()
    engine_splats: _engine()
    engine_surface: _engine()
    engine_texture: _engine()
    engine_export: _engine()

    def engines(self) -> dict[str, str]:
        """Stage -> chosen engine, without those left to the backend."""
        chosen = {stage: getattr(self, f"engine_{stage}") for stage in STAGES}
        return {stage: name for stage, name in chosen.items() if name != AUTO}

    def options(self) -> dict[str, Any]:
        """Stage options that differ from the quality's, as the backend names them."""
        wanted = {
            "surface.faces": max(self.faces, LEAST_FACES) if self.faces else 0,
            "surface.quads": self.quads,
            "surface.lods": str(self.lods) if self.lods else "",
            "texture.normal_map": self.normal_map,
            "texture.delight": self.delight,
        }
        return {name: value for name, value in wanted.items() if value}

    def placement(self) -> Placement:
        """How a result is put into the scene."""
        return Placement(self.floor, self.cameras, self.show)


def settings(context: bpy.types.Context) -> OrrerySettings:
    """The settings of this scene."""
    return context.scene.orrery


def register() -> None:
    """Attach the settings to scenes."""
    bpy.types.Scene.orrery = bpy.props.PointerProperty(type=OrrerySettings)


def unregister() -> None:
    """Take them away again."""
    del bpy.types.Scene.orrery
