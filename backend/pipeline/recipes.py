"""The product in a few lines: which stages, in which order, on which values."""

from backend.pipeline.stage import Stage

MATTING = Stage("matting", ("picture",), "cutout")
ORBIT = Stage("orbit", ("cutout",), "orbit")
REFINE = Stage("refine", ("cutout", "orbit"), "views")
SPLATS = Stage("splats", ("views",), "splats")
SURFACE = Stage("surface", ("views", "splats"), "mesh")
TEXTURE = Stage("texture", ("views", "splats", "mesh"), "textured")
EXPORT = Stage("export", ("picture", "views", "splats", "textured"), "exports")

IMAGE_TO_3D = (MATTING, ORBIT, REFINE, SPLATS, SURFACE, TEXTURE, EXPORT)
"""picture -> exports (Generate 3D from image)."""

VIEWS_TO_3D = (SPLATS, SURFACE, TEXTURE, EXPORT)
"""picture (the first view), views -> exports (reconstruction alone)."""

RECIPES = {"image_to_3d": IMAGE_TO_3D, "views_to_3d": VIEWS_TO_3D, "sides_to_3d": VIEWS_TO_3D}

FROM_PICTURES = ("image_to_3d", "sides_to_3d")
"""Recipes that a client can submit: they need pictures only. For the second, the names of the pictures say
which side each shows (`backend/inputs/sides.py`)."""
