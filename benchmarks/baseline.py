"""The plain hull, the baseline of every table: signed-distance silhouettes on 128^3, nothing else.

No photo-consistency, no base, nothing taken from earlier stages: what silhouettes alone give. Its
colours come from the product's own texture stage, so that pictures compare shapes.
"""

from collections.abc import Mapping

from backend.geometry.carving import bounds_of, extract_surface, field_of, silhouettes
from backend.geometry.decimate import decimate
from backend.pipeline.engines import EMBEDDED, find_engine, load_engine
from backend.pipeline.options import StageOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.surface import run as surface
from backend.stages.texture import run as texture

CELLS = 128

_FIGURES = ("chamfer", "f_005", "f_01", "iou")
PROTOTYPES = {
    name: dict(zip(_FIGURES, figures, strict=True))
    for name, figures in {
        "drill": (0.00455, 0.829, 0.934, 0.945),
        "monkey": (0.00392, 0.843, 0.944, 0.864),
        "duck": (0.00793, 0.744, 0.890, 0.944),
        "drill_noise1": (0.00581, 0.690, 0.903, 0.920),
        "monkey_noise1": (0.00713, 0.643, 0.863, 0.830),
        "duck_noise1": (0.00867, 0.634, 0.882, 0.934),
        "banana": (0.00209, 0.967, 0.980, 0.983),
        "mug": (0.02927, 0.496, 0.611, 0.304),
    }.items()
}
"""The best that prototypes reached on the very same views before there was a product."""


def plain_hull(views: Views, faces: int) -> Mesh:
    """At most `faces` triangles."""
    masks = silhouettes(views.rgba[..., 3], views.cameras)
    grid = field_of(masks, *bounds_of(masks, views.cameras), CELLS)
    return Mesh(*decimate(*extract_surface(grid), faces, lambda: None))


def uncarved(views: Views, splats: Splats, options: StageOptions) -> Mesh:
    """The product's surface stage with carving switched off."""
    context = StageContext("surface", load_engine(find_engine("surface", EMBEDDED["surface"])), "hull")
    return surface.run(views=views, splats=splats, options=options, context=context)


def textured(mesh: Mesh, views: Views, splats: Splats, options: Mapping[str, StageOptions]) -> TexturedMesh:
    """`mesh` with the colours that the product's texture stage gives it."""
    name = EMBEDDED["texture"]
    context = StageContext("texture", load_engine(find_engine("texture", name)), name)
    return texture.run(views=views, splats=splats, mesh=mesh, options=options["texture"], context=context)
