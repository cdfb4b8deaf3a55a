"""The embedded texture engine: levelled projection with visibility, Gaussians and filling for the unseen."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from backend.geometry.eight_bit import EightBit
from backend.geometry.looks import LOOKS
from backend.geometry.mesh_render import over, render_mesh
from backend.geometry.photometric import psnr
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.texture.atlas import Texels, lay_out_texels, unwrap
from backend.stages.texture.fill import bleed, fill_unseen
from backend.stages.texture.levelling import SAMPLES, level_views
from backend.stages.texture.optimise import optimise
from backend.stages.texture.projection import blend, sample_views
from backend.stages.texture.sources import prepare_sources
from backend.stages.texture.splat_views import splat_views

FRONT_BOOST = 20.0
"""How much more the front (input) view weighs than the others: the user's pixels are the exact ones."""
CONFIDENCE_POWER = 4.0
"""A generated view (confidence 0.5) then weighs 1/16 of a photo. Measured on five single pictures: what
the mesh covers of the front view is repeated 2.1 dB better than with a power of 1."""


SPLAT_SHARE = 0.1
"""How much a picture of the Gaussians weighs beside a view. They know what the views saw from afar or at a
glance; measured on wrong geometry, off the orbit: +0.2 dB in the mean, lunch box +0.5 dB."""
FACING = 0.35
"""Cosine between normal and some view from which Gaussians are believed where no view sees the surface."""
OUTLINES_MEET = 0.88
"""IoU of outlines that views of one object reach: .97 and more for scans, .945 and more for published orbits
(an orbit read with the wrong cameras: .69 to .80)."""
LEAST_SPLAT = 0.02
"""Sum of weights from which the Gaussians' colour is taken where no view sees the surface."""


class ProjectTexture:
    """Bakes by blending the views that see each texel."""

    version = "3"

    def bake(
        self, mesh: Mesh, views: Views, splats: Splats, options: TextureOptions, context: StageContext
    ) -> TexturedMesh:
        """See run.py."""
        progress = _Progress(context, 2 * len(views) + len(LOOKS) + 3)
        progress("Unwrapping the mesh")
        uvs, charts = unwrap(mesh, options.size, context)
        texels = lay_out_texels(mesh, uvs, options.size)
        colors, seen = project_views(mesh, views, texels, progress)
        context.note(coverage_seen=round(float((seen > 0).mean()), 4))
        pictures = None
        if len(splats):
            pictures = splat_views(splats, mesh, views, lambda view: progress("Looking at the Gaussians"))
            colors, seen = add_splats(colors, seen, mesh, views, pictures, texels)
            context.note(coverage_with_splats=round(float((seen > 0).mean()), 4))
        progress("Filling what no view sees")
        colors = fill_unseen(mesh, texels, colors[:, :3], seen, context.check)
        progress("Finishing the texture")
        texture = EightBit.of(bleed(texels, colors, context.check))[...]
        textured = TexturedMesh(mesh, uvs, texture)
        del texels, colors, seen  # a fifth of what the job holds
        if options.optimise:
            texture = EightBit.of(optimise(textured, views, view_scales(views), context, pictures))
            textured = replace(textured, texture=texture[...])
        context.check()
        facts = front_facts(textured, views)
        context.note(charts=charts, **facts)
        if facts["silhouette_iou"] < OUTLINES_MEET:
            context.warn(
                f"Mesh and view 0 share only {facts['silhouette_iou']:.0%} of their outlines: the views do "
                "not show one rigid object from the cameras given. Look at the cut-outs in orbit/, then at "
                "the cameras: the camera file, or --orbit-cameras and --elevation."
            )
        progress("Texture ready")
        return textured


class _Progress:
    """Steps of known number, counted; called from several threads."""

    def __init__(self, context: StageContext, total: int) -> None:
        self.context, self._total, self._done = context, total, 0
        self._turn = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._turn:
            self.context.step(min(self._done, self._total), self._total, text)
            self._done += 1


def view_trust(views: Views) -> np.ndarray:
    """(N,) float32: how far each view is believed beside the others."""
    return (views.confidence.astype(np.float64) ** CONFIDENCE_POWER).astype(np.float32)


def view_scales(views: Views) -> np.ndarray:
    """(N,) float32: the views' trust with the boost of the front view."""
    scales = view_trust(views)
    scales[:1] *= FRONT_BOOST
    return scales


def project_views(
    mesh: Mesh, views: Views, texels: Texels, progress: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """What all views together say of every texel.

    Returns (P, 4): colour and the front view's share in it; (P,): sum of weights, 0 where no view sees the
    texel. `progress` is called before each view.
    """
    extent = _extent(mesh)
    sources = prepare_sources(
        mesh, views, lambda view: progress(f"Projecting view {view + 1} of {len(views)}")
    )
    some = np.arange(0, len(texels), max(1, len(texels) // SAMPLES))
    levels = level_views(sample_views(texels.take(some), sources, extent), view_trust(views))
    painted = blend(texels, sources, view_scales(views), levels, extent, lambda: None)
    return painted[:, [0, 1, 2, 4]], painted[:, 3].copy()  # not a window that keeps all of it


def add_splats(
    colors: np.ndarray, seen: np.ndarray, mesh: Mesh, views: Views, pictures: Views, texels: Texels
) -> tuple[np.ndarray, np.ndarray]:
    """As `project_views`, with pictures of the Gaussians blended in; what the front view shows is kept."""
    sources = prepare_sources(mesh, pictures, lambda view: None)
    count = len(pictures)
    plain = np.zeros((count, 2, 3), dtype=np.float32)
    plain[:, 0] = 1
    painted = blend(texels, sources, np.ones(count, np.float32), plain, _extent(mesh), lambda: None)
    weight = SPLAT_SHARE * painted[:, 3] * (1 - colors[:, 3]) ** 2
    hidden = seen == 0
    weight[hidden & ((painted[:, 3] < LEAST_SPLAT) | ~faces_some_view(texels, views))] = 0
    total = seen + weight
    mix = (weight / np.maximum(total, 1e-20))[:, None]
    mixed = colors.copy()
    mixed[:, :3] += mix * (painted[:, :3] - colors[:, :3])
    return mixed, total


def faces_some_view(texels: Texels, views: Views) -> np.ndarray:
    """(P,) bool: whether the surface is turned to some camera, behind something else or not.

    Elsewhere, as under an object on the ground, Gaussians were never fitted: they are confetti.
    """
    facing = np.zeros(len(texels), dtype=bool)
    for centre in views.cameras.centres.astype(np.float32):
        toward = centre - texels.positions
        along = np.einsum("pc,pc->p", texels.normals, toward)
        facing |= along > FACING * np.sqrt(np.einsum("pc,pc->p", toward, toward))
    return facing


def _extent(mesh: Mesh) -> float:
    return float(np.ptp(mesh.vertices, axis=0).max())


def front_facts(textured: TexturedMesh, views: Views) -> dict[str, float]:
    """How well the textured mesh repeats view 0: PSNR over white (dB), IoU of the silhouettes."""
    mesh = textured.mesh
    rendered = render_mesh(
        mesh.vertices, mesh.faces, textured.uvs, textured.texture, views.cameras.take([0]), supersample=2
    )[0]
    white = (1.0, 1.0, 1.0)
    ours, theirs = rendered[..., 3] >= 0.5, views.rgba[0, ..., 3] >= 0.5
    union = np.count_nonzero(ours | theirs)
    return {
        "front_psnr": round(psnr(over(rendered, white), over(views.rgba[0], white)), 2),
        "silhouette_iou": round(float(np.count_nonzero(ours & theirs)) / max(int(union), 1), 4),
    }
