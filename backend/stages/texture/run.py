"""Texture: a mesh and posed views in, the mesh with UVs, base colour and what else is asked for out."""

from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.texture.finish import finish


def run(
    *, views: Views, splats: Splats, mesh: Mesh, options: TextureOptions, context: StageContext
) -> TexturedMesh:
    """Bake an atlas of `options.size` pixels from the views; the geometry is left as it is.

    Engines get the views with the corrections that the splats stage learned, if any.
    Raises StageFailed where the mesh cannot be laid out, Cancelled within a fraction of a second.
    """
    views = splats.agreed(views)
    textured = context.engine.bake(mesh, views, splats, options, context)
    return finish(textured, mesh, views, options, context)
