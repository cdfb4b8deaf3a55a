"""What the user sets in the panel; stored in the scene, so a file remembers it."""

from typing import Any

import bpy

from .importers import place, reference
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

FROM_FILE, FROM_IMAGE, FROM_SIDES, FROM_TEXT = "FILE", "IMAGE", "SIDES", "TEXT"

SIDES = ("front", "right", "back", "left")
"""As Blender's own views of those names: `right` is seen from +X."""

_RELATIVE_TOO = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()
"""Of a path that may be relative to the .blend file; Blender says so from 4.5 on."""

TEXTURE_SIZES = ("0", "512", "1024", "2048", "4096")
"""0 leaves it to the quality."""

_SHOW_ITEMS = (
    (SHOW_MESH, "Mesh", "Show the textured mesh", "MESH_DATA", 0),
    (SHOW_GAUSSIANS, "Gaussians", "Show the Gaussians", "POINTCLOUD_DATA", 1),
    (SHOW_BOTH, "Both", "Show both; they overlap", "OVERLAY", 2),
)


def _engine() -> Any:
    return bpy.props.StringProperty(name="Engine", description="How this stage is done", default=AUTO)


def _side(name: str) -> Any:
    return bpy.props.PointerProperty(
        name=name, description=f"The object as Blender's {name.lower()} view shows it", type=bpy.types.Image
    )


class OrrerySettings(bpy.types.PropertyGroup):
    """The settings of *Generate*."""

    source: bpy.props.EnumProperty(
        name="Source",
        items=(
            (FROM_FILE, "File", "A picture file"),
            (FROM_IMAGE, "Image", "An image already in Blender"),
            (FROM_SIDES, "Sides", "Several views of one object: front, right, back, left"),
            (FROM_TEXT, "Text", "A description, where an engine takes one"),
        ),
    )
    path: bpy.props.StringProperty(
        name="Picture",
        description="A picture of one object (PNG, JPEG, WebP ...)",
        subtype="FILE_PATH",
        options=_RELATIVE_TOO,
    )
    image: bpy.props.PointerProperty(name="Image", description="An image of one object", type=bpy.types.Image)
    side_front: _side("Front")
    side_right: _side("Right")
    side_back: _side("Back")
    side_left: _side("Left")
    prompt: bpy.props.StringProperty(name="Text", description="What to make, in words")
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
    variations: bpy.props.IntProperty(
        name="Variations",
        description="So many results with seeds one after the other, to choose from as thumbnails",
        min=1,
        max=8,
        default=1,
    )
    faces: bpy.props.IntProperty(
        name="Triangles", description="Budget of the mesh; 0 leaves it to the quality", min=0, max=500_000
    )
    quads: bpy.props.BoolProperty(
        name="Quads", description="Remesh to quads, for editing and subdivision; half as many as triangles"
    )
    lods: bpy.props.IntProperty(
        name="LODs",
        description="Coarser copies, hidden in a collection of their own, each a quarter of the one before",
        min=0,
        max=4,
    )
    texture_size: bpy.props.EnumProperty(
        name="Texture",
        description="Edge of the texture, pixels",
        items=[(size, f"{size} px" if size != "0" else "By Quality", "") for size in TEXTURE_SIZES],
    )
    normal_map: bpy.props.BoolProperty(
        name="Normal Map", description="Bake what the triangle budget took away into a normal map"
    )
    delight: bpy.props.BoolProperty(
        name="Remove Lighting",
        description="Take the smooth part of the lighting out of the colours and guess a roughness",
    )
    at: bpy.props.EnumProperty(
        name="Place",
        items=(
            (place.BESIDE, "Free Spot", "At the origin, or to the right of what stands there", "SNAP_ON", 0),
            (place.ORIGIN, "Origin", "At the world's origin", "WORLD", 1),
            (place.CURSOR, "3D Cursor", "At the 3D cursor", "PIVOT_CURSOR", 2),
        ),
    )
    size: bpy.props.FloatProperty(
        name="Size",
        description="Longest side of the result; 0 leaves it as it was made, about a metre",
        min=0.0,
        soft_max=10.0,
        subtype="DISTANCE",
    )
    floor: bpy.props.BoolProperty(
        name="Stand on Floor",
        description="The object's origin is on the floor below its middle, at the height of its place; else "
        "it is the middle of the views around it",
        default=True,
    )
    shading: bpy.props.EnumProperty(
        name="Shading",
        items=(
            ("SMOOTH", "Smooth", "Faces are shaded as one surface", "SHADING_RENDERED", 0),
            ("FLAT", "Flat", "Each face is shaded by itself", "MESH_ICOSPHERE", 1),
        ),
    )
    cameras: bpy.props.BoolProperty(
        name="Add Cameras", description="Add the views around the object as one animated camera"
    )
    import_lods: bpy.props.BoolProperty(
        name="Coarser Copies", description="Import the coarser copies, if the result has some", default=True
    )
    import_texture: bpy.props.EnumProperty(
        name="Texture",
        description="Most pixels of an edge of the textures; larger ones are halved",
        items=[(size, f"At Most {size} px" if size != "0" else "As Made", "") for size in TEXTURE_SIZES[:-1]],
    )
    quad_copy: bpy.props.BoolProperty(
        name="Quad Copy",
        description="Add a hidden copy whose Remesh modifier makes quads of even size, without the texture",
    )
    decimate: bpy.props.FloatProperty(
        name="Reduced Copy",
        description="Add a hidden copy whose Decimate modifier keeps this share of the faces; 0 for none",
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    reference: bpy.props.EnumProperty(
        name="Input",
        description="The input beside the result",
        items=(
            (reference.NONE, "None", "Leave the input out", "X", 0),
            (reference.CAMERA, "Camera", "A camera that sees the result as the input shows it, the input "
             "behind", "CAMERA_DATA", 1),
            (reference.EMPTY, "Picture", "The input as a picture beside the result", "IMAGE_REFERENCE", 2),
        ),
    )  # fmt: skip
    pack: bpy.props.BoolProperty(
        name="Pack Input", description="Keep the input's picture inside the .blend file", default=True
    )
    preview_in_scene: bpy.props.BoolProperty(
        name="Preview in Scene",
        description="While a job runs, hang its newest picture where the result will be",
        default=True,
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
            "texture.size": int(self.texture_size),
            "texture.normal_map": self.normal_map,
            "texture.delight": self.delight,
        }
        return {name: value for name, value in wanted.items() if value}

    def take_over(self, job_settings: dict[str, Any], seed: int) -> None:
        """Set what an earlier job had been given."""
        options = job_settings.get("options", {})
        self.quality = job_settings.get("quality", "standard")
        self.seed = min(seed, 2**31 - 1)
        self.faces = min(int(options.get("surface.faces", 0)), 500_000)
        self.quads = bool(options.get("surface.quads", False))
        lods = str(options.get("surface.lods", "0"))
        self.lods = int(lods) if lods in "01234" else 0
        size = str(options.get("texture.size", "0"))
        self.texture_size = size if size in TEXTURE_SIZES else "0"
        self.normal_map = bool(options.get("texture.normal_map", False))
        self.delight = bool(options.get("texture.delight", False))
        for stage in STAGES:
            setattr(self, f"engine_{stage}", job_settings.get("engines", {}).get(stage, AUTO))

    def placement(self) -> Placement:
        """How a result is put into the scene."""
        return Placement(
            self.floor, self.cameras, self.show, self.at, self.size, self.shading == "SMOOTH",
            self.import_lods, int(self.import_texture), self.decimate, self.quad_copy, self.reference,
            self.pack,
        )  # fmt: skip


def settings(context: bpy.types.Context) -> OrrerySettings:
    """The settings of this scene."""
    return context.scene.orrery


def register() -> None:
    """Attach the settings to scenes."""
    bpy.types.Scene.orrery = bpy.props.PointerProperty(type=OrrerySettings)


def unregister() -> None:
    """Take them away again."""
    del bpy.types.Scene.orrery
