"""Gaussians and mesh made to show the same object: the Gaussians take from the surface what no view told.

The Gaussians come first and start on the visual hull: what the surface carved away and no view looks
behind stays as confetti, and what no view shows has no colour. With the mesh at hand that can be mended:
Gaussians off the surface go, unless a view shows there something that the mesh lacks; new ones cover what
is left bare; a short fit to the views, and softly to pictures of the mesh from above and below, follows.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.harmonics import harmonics_from_color
from backend.geometry.looks import look_cameras
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.mesh_render import render_mesh
from backend.geometry.parallel import map_parallel
from backend.geometry.photometric import photometric_loss
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import Rates, Raw, chain, prune
from backend.geometry.splat_raster import Gaussians, render_gaussians
from backend.geometry.splat_share import shares_and_backdrop, view_shares
from backend.geometry.splat_targets import WHITE, Target, crop_target, make_targets
from backend.geometry.surface_lookup import SurfaceLookup
from backend.pipeline.options import ExportOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views

OFF = 0.006
"""A Gaussian whose centre is farther out of the surface than this, in extents of the mesh, is off it."""
LEAST_SHARE = 0.01
"""Gaussians that make up less of the views than this, against the mean, tell nothing."""
MOST_SHARE = 0.1
"""And new ones where no view looks make up no more."""
NEAR, FAR = 1.5, 4.0
"""Surface is bare where no Gaussian is this near, in mean distances of as many evenly spread points: where
no view looks at it, and where one does."""
FACING = 0.3
"""Cosine between a face's normal and a camera from which the camera tells its colour."""
OTHER_COLORS = 0.06
"""Mean difference of mesh and front view above which the texture is another one than the views show, as
with the light taken out."""
LOOK_EVERY = 3
"""Steps of which one is for a picture of the mesh."""
LOOK_WEIGHT, SEEN, BESIDE = 0.08, 0.4, 1.0
"""Weight of these pictures beside the views; of what views tell in them, and of what is beside the mesh.

Their colours are compared by L1: small differences are closed all the same, and large ones, where the
Gaussians are right and the mesh is wrong, pull no harder. Measured on fourteen scans at cameras of no view,
against MSE with a weight of 0.2 and 120 steps: Gaussians and mesh differ by 1.95 % for 2.02 %, and the
Gaussians gain .08 dB on the orbit, .13 off it. A larger weight, or every second step, brings them nearer
still (1.92 %), but costs where they were better than the mesh: up to .4 dB.
"""
SSIM, ALPHA = 0.02, 0.1
"""As the fit's own."""
FIRST, LAST = 0.4, 0.05
"""Learning rates, shares of the fit's."""
POSITION = 0.3
"""And of its rate of positions: +0.3 dB at the views, +0.2 dB between them."""
_SCALE, _FLATNESS, _INSET, _OPACITY = 0.6, 0.25, 0.6, 0.9
"""New Gaussians are as those that the fit starts with."""


@dataclass(frozen=True)
class Told:
    """What the views tell of the surface: seen (F,) bool faces that some camera looks at; lacking (N, H, W)
    bool pixels that show the object where the mesh is not."""

    seen: np.ndarray
    lacking: np.ndarray


def settled(
    splats: Splats, textured: TexturedMesh, views: Views, options: ExportOptions, context: StageContext
) -> Splats:
    """The Gaussians, agreeing with the mesh; as they are where the mesh shows other colours than the views.

    views  as they agree. Notes settled_away, settled_new, settled_psnr (of the views, dB), and
    colors_apart: mean difference in percent from LOOKS, where mesh or Gaussians are.
    """
    views = splats.agreed(views)
    if not options.settle_steps or _front_difference(textured, views) > OTHER_COLORS:
        return splats
    context.step(0, options.settle_steps, "Settling the Gaussians on the surface")
    told = what_views_tell(textured, views, context)
    moved, away, new = cover(splats, textured, views, told, context)
    looks = look_targets(textured, views, told, options.settle_size, context)
    targets = make_targets(views, options.settle_size, context.check)
    extent = float(np.ptp(textured.mesh.vertices, axis=0).max())
    fitted = fit(moved, targets, looks, extent, splats.antialiased, options.settle_steps, context)
    context.note(settled_away=away, settled_new=new)
    return Splats(**vars(fitted), antialiased=splats.antialiased, corrections=splats.corrections)


def what_views_tell(textured: TexturedMesh, views: Views, context: StageContext) -> Told:
    """See `Told`."""
    mesh, cameras = textured.mesh, views.cameras
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    middles, normals = corners.mean(axis=1), _face_normals(corners)
    seen = np.zeros(len(mesh.faces), dtype=bool)
    lacking = np.zeros(views.rgba.shape[:3], dtype=bool)
    for view in range(len(views)):
        context.check()
        face = _faces_in(mesh, cameras, view)
        hit = np.zeros(len(mesh.faces), dtype=bool)
        hit[face[face >= 0]] = True
        toward = cameras.centres[view] - middles
        seen |= hit & ((toward * normals).sum(axis=1) > FACING * np.linalg.norm(toward, axis=1))
        hole = (views.rgba[view, ..., 3] > 0.5) & (face < 0)
        # A line one pixel wide is the rim, not a part that is missing.
        hole[1:, 1:] &= hole[:-1, 1:] & hole[1:, :-1] & hole[:-1, :-1]
        lacking[view] = hole
    return Told(seen, lacking)


def cover(
    splats: Splats, textured: TexturedMesh, views: Views, told: Told, context: StageContext
) -> tuple[Gaussians, int, int]:
    """The Gaussians without those off the surface, those that no view shows and painted backdrop, and with
    new ones where the surface is bare; how many went and came."""
    from scipy.spatial import cKDTree

    mesh = textured.mesh
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    normals = _face_normals(corners)
    nearest = SurfaceLookup(mesh.vertices, mesh.faces).nearest(splats.positions, context.check)
    outward = splats.positions - nearest.interpolate(mesh.vertices, mesh.faces)
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    off = ((outward * normals[nearest.face]).sum(axis=1) > 0) & (nearest.distance > OFF * extent)
    pixels, depth = views.cameras.project(splats.positions)
    height, width = told.lacking.shape[1:]
    for view in range(len(views)):
        place = np.nan_to_num(pixels[view])
        column = np.clip(place[:, 0], 0, width - 1).astype(np.int64)
        row = np.clip(place[:, 1], 0, height - 1).astype(np.int64)
        off &= ~(told.lacking[view, row, column] & (depth[view] > 0))
    share, backdrop = shares_and_backdrop(splats, views, lambda view: context.check())
    kept = np.flatnonzero(~off & ~backdrop & (share > LEAST_SHARE * share.mean()))
    count = len(splats)
    points, faces, colors, spacing = _spread(textured, count, context.generator())
    context.check()
    gap = cKDTree(splats.positions[kept]).query(points)[0] / spacing if len(kept) else np.full(count, np.inf)
    bare = np.flatnonzero(gap > np.where(told.seen[faces], FAR, NEAR))
    normals = normals[faces[bare]]
    harmonics = np.zeros((len(bare), *splats.harmonics.shape[1:]), dtype=np.float32)
    harmonics[:, 0] = harmonics_from_color(colors[bare])
    scales = np.tile(_SCALE * spacing * np.array([1, 1, _FLATNESS]), (len(bare), 1))
    fresh = (
        points[bare] - _INSET * spacing * normals,
        scales,
        quaternions_to_axis_z(normals),
        np.full(len(bare), _OPACITY),
        harmonics,
    )
    old = (splats.positions, splats.scales, splats.rotations, splats.opacities, splats.harmonics)
    both = [np.concatenate([a[kept], b]).astype(np.float32) for a, b in zip(old, fresh, strict=True)]
    share = view_shares(Gaussians(*both), views.cameras, lambda view: context.check())
    # On a wall thinner than they are, those of the hidden side would cover the one that the views show.
    stays = share <= MOST_SHARE * share.mean()
    stays[: len(kept)] = True
    stays[len(kept) :] |= told.seen[faces[bare]]
    return Gaussians(*(a[stays] for a in both)), count - len(kept), int(stays[len(kept) :].sum())


def look_targets(
    textured: TexturedMesh, views: Views, told: Told, size: int, context: StageContext
) -> list[Target]:
    """Pictures of the mesh from LOOKS, with the lens and distance of the views, weighted by what is new."""
    mesh = textured.mesh
    cameras = look_cameras(mesh.vertices, views.cameras, size)

    def target(view: int) -> Target | None:
        context.check()
        camera = cameras.take([view])
        picture = render_mesh(mesh.vertices, mesh.faces, textured.uvs, textured.texture, camera)[0]
        face = _faces_in(mesh, cameras, view)
        weights = np.where(face < 0, BESIDE, np.where(told.seen[face], SEEN, 1.0)).astype(np.float32)
        return crop_target(picture, cameras, view, picture[..., 3] > 0, weights)

    return [one for one in map_parallel(target, range(len(cameras))) if one is not None]


def fit(
    start: Gaussians,
    targets: list[Target],
    looks: list[Target],
    extent: float,
    antialiased: bool,
    steps: int,
    context: StageContext,
) -> Gaussians:
    """`steps` of Adam, a picture each, one in LOOK_EVERY of the mesh.

    Notes settled_psnr and colors_apart, of the last look at each picture.
    """
    raw = Raw.of(start)
    adam, random = Adam(vars(raw)), context.generator()
    rates = Rates(position=POSITION * Rates.position)
    queues: tuple[list[int], list[int]] = ([], [])
    quality, apart = np.full(len(targets), np.nan), np.full(len(looks), np.nan)
    for step in range(steps):
        context.step(step, steps, f"Settling the Gaussians on the surface, step {step + 1} of {steps}")
        look = bool(looks) and step % LOOK_EVERY == LOOK_EVERY - 1
        pictures, queue = (looks if look else targets), queues[look]
        if not queue:
            queue += random.permutation(len(pictures)).tolist()
        number = queue.pop()
        target = pictures[number]
        drawn = raw.activate()
        rendering = render_gaussians(
            drawn, target.world_from_camera, target.intrinsics, target.width, target.height, WHITE,
            antialiased=antialiased,
        )  # fmt: skip
        squares, _, upstream = photometric_loss(
            rendering.image, target.planes, SSIM, ALPHA, target.weights, absolute=look
        )
        if look:
            upstream *= np.float32(LOOK_WEIGHT)
            apart[number] = _apart(rendering.image, target)
        else:
            quality[number] = -10 * np.log10(max(squares / (3 * target.pixels), 1e-10))
        gradient = chain(rendering.backward(upstream), drawn)
        touched = (gradient.logits != 0) | (gradient.harmonics[:, 0] != 0).any(axis=1)
        decay = FIRST * (LAST / FIRST) ** (step / max(steps - 1, 1))
        adam.step(vars(gradient), rates.columns(decay, extent, raw.harmonics.shape[1]), touched)
    for name, values in (("settled_psnr", quality), ("colors_apart", 100 * apart)):
        if np.isfinite(values).any():
            context.note(**{name: round(float(np.nanmean(values)), 2)})
    return prune(raw.activate())


def _faces_in(mesh: Mesh, cameras: Cameras, view: int) -> np.ndarray:
    """(H, W) int32: the face that a camera sees in each pixel, -1 for none."""
    return rasterize_mesh(
        mesh.vertices, mesh.faces, cameras.world_from_camera[view], cameras.intrinsics[view],
        cameras.width, cameras.height,
    ).face  # fmt: skip


def _front_difference(textured: TexturedMesh, views: Views) -> float:
    """Mean difference of the mesh and view 0, where both are solid."""
    mesh = textured.mesh
    drawn = render_mesh(mesh.vertices, mesh.faces, textured.uvs, textured.texture, views.cameras.take([0]))[0]
    both = (drawn[..., 3] > 0.99) & (views.rgba[0, ..., 3] > 0.99)
    if not both.any():
        return np.inf
    return float(np.abs(drawn[both][:, :3] - views.rgba[0][both][:, :3]).mean())


def _apart(image: np.ndarray, target: Target) -> float:
    """Mean difference of the colours of image and target (4, h, w) where either shows something."""
    either = (target.planes[3] > 0) | (image[3] > 0.05)
    difference = np.abs(np.clip(image[:3, either], 0, 1) - target.planes[:3, either])
    return float(difference.mean()) if either.any() else 0.0


def _face_normals(corners: np.ndarray) -> np.ndarray:
    """corners (F, 3, 3) -> (F, 3) unit normals, 0 for a face without area."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def _spread(
    textured: TexturedMesh, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """`count` points evenly on the mesh: positions, faces, colours of the texture; their mean distance."""
    corners = textured.mesh.vertices.astype(np.float64)[textured.mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    edges = np.cumsum(0.5 * np.linalg.norm(cross, axis=1))
    face = np.searchsorted(edges, (np.arange(count) + random.random(count)) * (edges[-1] / count))
    face = np.minimum(face, len(corners) - 1)
    root, v = np.sqrt(random.random(count)), random.random(count)
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=1)
    uv = np.einsum("pk,pkc->pc", weights, textured.uvs[face])
    size = len(textured.texture)
    row = np.clip((1 - uv[:, 1]) * size, 0, size - 1).astype(np.int64)
    column = np.clip(uv[:, 0] * size, 0, size - 1).astype(np.int64)
    points = np.einsum("pk,pkc->pc", weights, corners[face])
    return points, face, textured.texture[row, column], float(np.sqrt(edges[-1] / count))
