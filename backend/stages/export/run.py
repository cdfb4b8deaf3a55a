"""Export: everything made so far in, the user's files out."""

from backend.pipeline.options import ExportOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Exports, Picture, Splats, TexturedMesh, Views
from backend.stages.export.settle import settled


def run(
    *,
    picture: Picture,
    views: Views,
    splats: Splats,
    textured: TexturedMesh,
    options: ExportOptions,
    context: StageContext,
) -> Exports:
    """Settle the Gaussians on the surface; write mesh, Gaussians, cameras, pictures and turntables in the
    formats other programs read.

    Returns relative POSIX paths and their bytes; the same input gives the same bytes. Raises Cancelled
    within a fraction of a second.
    """
    splats = settled(splats, textured, views, options, context)
    context.note(gaussians=len(splats))
    return context.engine.write(picture, views, splats, textured, options, context)
