"""Texture optimisation on the CPU: the texture is fitted to the views, the geometry stays (V3D 3.3).

What is learned is a change of the baked texture, on a grid no finer than the views can tell. Drawing it is
a sparse bilinear gather: each pixel that mesh and view fill wholly reads four cells; its gradient is the
transpose. Pixels at outlines take no part, so that a wrong outline does not colour the mesh.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.jit import kernel
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.mesh_render import over, render_mesh
from backend.geometry.parallel import for_bands, map_parallel
from backend.geometry.perceptual import PerceptualNet
from backend.geometry.perceptual_term import PerceptualTerm
from backend.geometry.photometric import photometric_loss
from backend.pipeline.stage import StageContext
from backend.pipeline.values import TexturedMesh, Views
from backend.stages.texture.objective import OBJECTIVE, Objective
from backend.weights import stlpips

EPOCHS = 4
"""Times that every view is looked at."""
RATE = 4e-3
BETAS = (0.9, 0.99)
GRID = 1024
"""Cells a side of the change, at most; also at most two a pixel of the views."""
_MARGIN = 8
_SOLID = 0.99
_STEP = np.float32(1 / 65535)
_WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Lookup:
    """How one view's pixels read the grid: the rows of a sparse matrix.

    window      (2,) slices of the picture that hold the object
    pixel       (n,) int32 row-major place in the window
    cell        (n,) int32 row-major place in the grid of the upper left of four cells
    along, down (n,) uint16, in 65535ths, bilinear weights of the right and of the lower cells
    colors      (3, n) uint16, in 65535ths, what the baked texture shows there

    In 16 bits, because those of all views are kept: the half of what a job of large views holds.
    """

    window: tuple[slice, slice]
    pixel: np.ndarray
    cell: np.ndarray
    along: np.ndarray
    down: np.ndarray
    colors: np.ndarray


@kernel
def _gather(change, grid, pixel, cell, along, down, colors, out):
    """out (pixels,) <- colors + what `change` (grid^2,) shows at the lookup's pixels."""
    for i in range(len(pixel)):
        c, s, t = cell[i], np.float32(along[i]) * _STEP, np.float32(down[i]) * _STEP
        upper = change[c] + s * (change[c + 1] - change[c])
        lower = change[c + grid] + s * (change[c + grid + 1] - change[c + grid])
        out[pixel[i]] = np.float32(colors[i]) * _STEP + upper + t * (lower - upper)


@kernel
def _scatter(slope, grid, pixel, cell, along, down, out):
    """The transpose: adds slope (pixels,) to out (grid^2,)."""
    for i in range(len(pixel)):
        c, s, t = cell[i], np.float32(along[i]) * _STEP, np.float32(down[i]) * _STEP
        g = slope[pixel[i]]
        low, high = g * t, g - g * t
        out[c] += high - high * s
        out[c + 1] += high * s
        out[c + grid] += low - low * s
        out[c + grid + 1] += low * s


@kernel
def _adam(value, slope, first, second, rate, beta1, beta2, nearness, epsilon, start, stop):
    """Adam (Kingma and Ba 2015) on flat arrays; the slope is used up; nearness pulls the value to 0."""
    one = np.float32(1)
    for i in range(start, stop):
        g = slope[i] + nearness * value[i]
        slope[i] = np.float32(0)
        first[i] = beta1 * first[i] + (one - beta1) * g
        second[i] = beta2 * second[i] + (one - beta2) * g * g
        value[i] -= rate * first[i] / (np.sqrt(second[i]) + epsilon)


def optimise(
    textured: TexturedMesh,
    views: Views,
    trust: np.ndarray,
    context: StageContext,
    *,
    objective: Objective = OBJECTIVE,
    epochs: int = EPOCHS,
) -> np.ndarray:
    """The texture (T, T, 3) float32 0..1 after `epochs` looks at every view, one view a step of Adam.

    trust (N,) weighs the views' losses. The perceptual term runs where its weights are present.
    """
    steps = epochs * len(views)
    size = textured.texture.shape[0]
    grid = min(size, GRID, 2 * max(views.cameras.width, views.cameras.height))
    lookups = map_parallel(lambda view: _lookup(textured, views, view, grid, context), range(len(views)))
    term = None
    context.note(texture_perceptual=stlpips.present())
    if stlpips.present():
        term = PerceptualTerm(PerceptualNet.of(stlpips.load()), context.seed)
    weights = trust / max(float(trust.mean()), 1e-9)
    change = np.zeros((3, grid * grid), dtype=np.float32)
    slope, first, second = (np.zeros_like(change) for _ in range(3))
    generator = np.random.default_rng(context.seed)
    order: list[int] = []
    errors = np.full((2, len(views)), np.nan)
    for step in range(steps):
        context.step(step, steps, f"Fitting the texture: step {step + 1} of {steps}")
        order = order or list(generator.permutation(len(views)))
        view = int(order.pop())
        lookup = lookups[view]
        if not len(lookup.pixel):
            continue
        target = _target(views, view, lookup.window)
        image = target.copy()
        planes = image.reshape(4, -1)

        def draw(k: int, planes=planes, lookup=lookup) -> None:
            _gather(
                change[k], grid, lookup.pixel, lookup.cell, lookup.along, lookup.down,
                lookup.colors[k], planes[k],
            )  # fmt: skip

        map_parallel(draw, range(3))
        squares, _, gradient = photometric_loss(image, target, objective.ssim, 0.0)
        if term is not None and objective.perceptual and term.wanted(step, step / steps):
            _, other = term(image[:3], target[:3], step)
            gradient[:3] += np.float32(objective.perceptual) * other
        gradient *= np.float32(weights[view])
        back = gradient.reshape(4, -1)

        def scatter(k: int, back=back, lookup=lookup) -> None:
            _scatter(back[k], grid, lookup.pixel, lookup.cell, lookup.along, lookup.down, slope[k])

        map_parallel(scatter, range(3))
        _step(change, slope, first, second, step, steps, objective)
        errors[0 if step < len(views) else 1, view] = squares / (3 * len(lookup.pixel))
    if np.isfinite(errors).any(axis=1).all():
        before, after = np.nanmean(errors, axis=1)
        context.note(texture_error_before=round(float(before), 6), texture_error_after=round(float(after), 6))
    return _changed(textured.texture, change.reshape(3, grid, grid))


def _step(change, slope, first, second, step: int, steps: int, objective: Objective) -> None:
    """One step of Adam at a rate that falls to 0."""
    correction = np.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
    rate = RATE * (1 - step / steps) * correction
    flat = [array.reshape(-1) for array in (change, slope, first, second)]
    nearness = np.float32(2 * objective.nearness / len(flat[0]))
    for_bands(
        lambda start, stop: _adam(
            *flat, np.float32(rate), np.float32(BETAS[0]), np.float32(BETAS[1]), nearness,
            np.float32(1e-9), start, stop,
        ),
        len(flat[0]),
    )  # fmt: skip


def _lookup(textured: TexturedMesh, views: Views, view: int, grid: int, context: StageContext) -> Lookup:
    """The pixels of a view that it and the mesh fill wholly."""
    context.check()
    mesh, cameras = textured.mesh, views.cameras.take([view])
    drawn = render_mesh(mesh.vertices, mesh.faces, textured.uvs, textured.texture, cameras)[0]
    face, barycentric = _fragments(textured, cameras)
    inside = (drawn[..., 3] >= 1) & (views.rgba[view, ..., 3] > _SOLID) & (face >= 0)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        nothing = np.zeros(0, dtype=np.int32)
        blank = np.zeros(0, dtype=np.uint16)
        return Lookup((slice(0, 1), slice(0, 1)), nothing, nothing, blank, blank, np.zeros((3, 0), np.uint16))
    height, width = inside.shape
    window = (
        slice(max(rows[0] - _MARGIN, 0), min(rows[-1] + 1 + _MARGIN, height)),
        slice(max(columns[0] - _MARGIN, 0), min(columns[-1] + 1 + _MARGIN, width)),
    )
    uv = np.einsum("nk,nkc->nc", barycentric[inside], textured.uvs[face[inside]])
    s = np.clip(uv[:, 0] * grid - 0.5, 0, grid - 1)
    t = np.clip((1 - uv[:, 1]) * grid - 0.5, 0, grid - 1)
    left, top = np.minimum(s.astype(np.int32), grid - 2), np.minimum(t.astype(np.int32), grid - 2)
    return Lookup(
        window,
        np.flatnonzero(inside[window]).astype(np.int32),
        top * np.int32(grid) + left,
        _in_steps(s - left),
        _in_steps(t - top),
        np.ascontiguousarray(_in_steps(drawn[..., :3][inside]).T),
    )


def _in_steps(values: np.ndarray) -> np.ndarray:
    """0..1 in 65535ths, uint16."""
    return np.rint(values * np.float32(65535)).clip(0, 65535).astype(np.uint16)


def _fragments(textured: TexturedMesh, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    mesh = textured.mesh
    hit = rasterize_mesh(
        mesh.vertices, mesh.faces, cameras.world_from_camera[0], cameras.intrinsics[0],
        cameras.width, cameras.height,
    )  # fmt: skip
    return hit.face, hit.barycentric


def _target(views: Views, view: int, window: tuple[slice, slice]) -> np.ndarray:
    """(4, h, w) float32: the view over white, and alpha."""
    rgba = views.rgba[view, window[0], window[1]]
    return np.ascontiguousarray(np.dstack([over(rgba, _WHITE), rgba[..., 3]]).transpose(2, 0, 1), np.float32)


def _changed(texture: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The texture (T, T, 3) with the change (3, grid, grid) added, 0..1."""
    import cv2

    size = texture.shape[0]
    fine = np.ascontiguousarray(change.transpose(1, 2, 0))
    if fine.shape[0] != size:
        fine = cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.clip(texture + fine, 0, 1)
