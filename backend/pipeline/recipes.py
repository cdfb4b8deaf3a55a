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

IMAGE_TO_ORBIT = (MATTING, ORBIT)
"""picture -> cutout, orbit: to look at several orbits before one is reconstructed (`--variations`)."""

RECIPES = {
    "image_to_3d": IMAGE_TO_3D,
    "views_to_3d": VIEWS_TO_3D,
    "sides_to_3d": VIEWS_TO_3D,
    "text_to_3d": IMAGE_TO_3D,
    "image_to_orbit": IMAGE_TO_ORBIT,
    "text_to_orbit": IMAGE_TO_ORBIT,
}

FROM_TEXT = ("text_to_3d", "text_to_orbit")
"""Recipes whose picture is drawn first, with the job's seed (`backend/prompt.py`)."""
PROMPT_FILE, PIPELINE_FILE = "prompt.txt", "pipeline.txt"
"""Their inputs: the words, and where the client chooses it the pipeline that draws them."""

FROM_CLIENTS = ("image_to_3d", "sides_to_3d", "image_to_orbit", *FROM_TEXT)
"""Recipes that a client can submit. For `sides_to_3d`, the names of the pictures say which side each shows
(`backend/inputs/sides.py`)."""
