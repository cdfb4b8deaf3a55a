"""Texture optimisation on the CPU: the texture is fitted to the views, the geometry stays (V3D 3.3).

What is learned is a change of the baked texture, on a grid no finer than the views can tell. Drawing it is
a sparse bilinear gather: each pixel that mesh and view fill wholly reads four cells; its gradient is the
transpose. Pixels at outlines take no part, so that a wrong outline does not colour the mesh.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.mesh_render import render_mesh
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
BESIDE = 1.0
"""Weight of a picture of the Gaussians, against the median view. Measured on six scans at a weight of .5:
mesh and Gaussians differ off the orbit by 2.42 % for 2.48 % without, and the mesh gains .05 dB there."""
RATE = 4e-3
BETAS = (0.9, 0.99)
GRID = 1024
"""Cells a side of the change, at most; also at most two a pixel of the views."""
_MARGIN = 8
_RUN = 64
_SOLID = 0.99
_PART, _STEP = np.float32(1 / 63), np.float32(1 / 1023)


@dataclass(frozen=True)
class Lookup:
    """How one view's pixels read the grid: the rows of a sparse matrix.

    window  (2,) slices of the picture that hold the object
    row     (h + 1,) int32, first pixel of each of the window's rows
    column  (n,) uint16, place in its row
    cell    (n,) uint32: bits 12 to 31 the row-major place in the grid of the upper left of four cells, 6 to
            11 and 0 to 5 the bilinear weights of the right and of the lower cells, in 63rds
    colors  (n,) uint32: what the baked texture shows there, in 1023rds: red in bits 20 to 29, then green,
            then blue

    In 10 bytes a pixel, because those of all views are kept: of sixteen of 1024 pixels they are a tenth of
    what the job holds. A 126th of a cell and a 2046th of a colour are less than the texture's 8 bits lose.
    """

    window: tuple[slice, slice]
    row: np.ndarray
    column: np.ndarray
    cell: np.ndarray
    colors: np.ndarray


@kernel
def _gather(change, grid, row, column, cell, colors, shift, out):
    """out (h, w) <- colours, those at bit `shift`, + what `change` (grid^2,) shows at the lookup's pixels."""
    for y in range(len(row) - 1):
        for i in range(row[y], row[y + 1]):
            c = cell[i] >> 12
            s, t = np.float32((cell[i] >> 6) & 63) * _PART, np.float32(cell[i] & 63) * _PART
            upper = change[c] + s * (change[c + 1] - change[c])
            lower = change[c + grid] + s * (change[c + grid + 1] - change[c + grid])
            shown = np.float32((colors[i] >> shift) & 1023) * _STEP
            out[y, column[i]] = shown + upper + t * (lower - upper)


@kernel
def _scatter(slope, grid, row, column, cell, out):
    """The transpose: adds slope (h, w) to out (grid^2,)."""
    for y in range(len(row) - 1):
        for i in range(row[y], row[y + 1]):
            c = cell[i] >> 12
            s, t = np.float32((cell[i] >> 6) & 63) * _PART, np.float32(cell[i] & 63) * _PART
            g = slope[y, column[i]]
            low, high = g * t, g - g * t
            out[c] += high - high * s
            out[c + 1] += high * s
            out[c + grid] += low - low * s
            out[c + grid + 1] += low * s


@kernel
def _adam(runs, value, slope, first, second, rate, beta1, beta2, nearness, epsilon, start, stop):
    """Adam (Kingma and Ba 2015) on runs start..stop of _RUN numbers each; the slope is used up; nearness
    pulls the value to 0."""
    one = np.float32(1)
    for run in range(start, stop):
        for i in range(runs[run], min(runs[run] + _RUN, len(value))):
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
    beside: Views | None = None,
    *,
    objective: Objective = OBJECTIVE,
    epochs: int = EPOCHS,
) -> np.ndarray:
    """The texture (T, T, 3) float32 0..1 after `epochs` looks at every view, one view a step of Adam.

    trust (N,) weighs the views' losses. beside: pictures of the Gaussians from elsewhere, looked at in every
    other epoch, each pixel as far as it is trusted. The perceptual term runs where its weights are present.
    """
    size = textured.texture.shape[0]
    grid = min(size, GRID, 2 * max(views.cameras.width, views.cameras.height))
    sets = [views] if beside is None else [views, beside]
    pictures = [(one, view) for one in sets for view in range(len(one))]
    lookups = [_lookup(textured, one, view, grid, context) for one, view in pictures]
    term = None
    context.note(texture_perceptual=stlpips.present())
    if stlpips.present():
        term = PerceptualTerm(PerceptualNet.of(stlpips.load()), context.seed)
    weights = np.full(len(pictures), BESIDE * np.median(trust))
    weights[: len(views)] = trust
    weights /= max(float(trust.mean()), 1e-9)
    change = np.zeros((3, grid * grid), dtype=np.float32)
    slope, first, second = (np.zeros_like(change) for _ in range(3))
    runs = _runs_read(lookups, grid)
    generator = np.random.default_rng(context.seed)
    order = [
        int(picture)
        for epoch in range(epochs)
        for picture in generator.permutation(len(pictures) if epoch % 2 else len(views))
    ]
    errors = np.full((2, len(views)), np.nan)
    for step, picture in enumerate(order):
        context.step(step, len(order), f"Fitting the texture: step {step + 1} of {len(order)}")
        lookup, (shown, view) = lookups[picture], pictures[picture]
        if not len(lookup.column):
            continue
        target = _target(shown, view, lookup.window)
        image = target.copy()

        def draw(k: int, image=image, lookup=lookup) -> None:
            _gather(
                change[k], grid, lookup.row, lookup.column, lookup.cell, lookup.colors, 20 - 10 * k, image[k]
            )

        map_parallel(draw, range(3))
        pixels = None
        if shown is beside and beside.pixel_confidence is not None:
            pixels = np.ascontiguousarray(beside.pixel_confidence[view][lookup.window])
        squares, _, gradient = photometric_loss(image, target, objective.ssim, 0.0, pixels)
        share = step / len(order)
        if term is not None and objective.perceptual and shown is views and term.wanted(step, share):
            _, other = term(image[:3], target[:3], step)
            gradient[:3] += np.float32(objective.perceptual) * other
        gradient *= np.float32(weights[picture])

        def scatter(k: int, gradient=gradient, lookup=lookup) -> None:
            _scatter(gradient[k], grid, lookup.row, lookup.column, lookup.cell, slope[k])

        map_parallel(scatter, range(3))
        _step(runs, change, slope, first, second, step, len(order), objective)
        if shown is views:
            errors[0 if step < len(views) else 1, view] = squares / (3 * len(lookup.column))
    lookups.clear()  # a tenth of what a job of large views holds
    del first, second
    if np.isfinite(errors).any(axis=1).all():
        before, after = np.nanmean(errors, axis=1)
        context.note(texture_error_before=round(float(before), 6), texture_error_after=round(float(after), 6))
    return _changed(textured.texture, change.reshape(3, grid, grid))


def _step(runs, change, slope, first, second, step: int, steps: int, objective: Objective) -> None:
    """One step of Adam at a rate that falls to 0."""
    correction = np.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
    rate = RATE * (1 - step / steps) * correction
    flat = [array.reshape(-1) for array in (change, slope, first, second)]
    nearness = np.float32(2 * objective.nearness / len(flat[0]))
    for_bands(
        lambda start, stop: _adam(
            runs, *flat, np.float32(rate), np.float32(BETAS[0]), np.float32(BETAS[1]), nearness,
            np.float32(1e-9), start, stop,
        ),
        len(runs),
    )  # fmt: skip


def _runs_read(lookups: list[Lookup], grid: int) -> np.ndarray:
    """(R,) int64: where the runs of _RUN numbers of (3, grid^2) begin in which some view reads; the rest of
    them never change."""
    read = np.zeros(3 * grid * grid + _RUN, dtype=bool)
    for lookup in lookups:
        cell = (lookup.cell >> 12).astype(np.int64)
        for corner in (0, 1, grid, grid + 1):
            read[cell + corner] = True
    plane = read[: grid * grid].copy()
    read[grid * grid : 3 * grid * grid] = np.tile(plane, 2)
    return _RUN * np.flatnonzero(read[: len(read) // _RUN * _RUN].reshape(-1, _RUN).any(axis=1))


def _lookup(textured: TexturedMesh, views: Views, view: int, grid: int, context: StageContext) -> Lookup:
    """The pixels of a view that it and the mesh fill wholly."""
    context.check()
    mesh, solid = textured.mesh, views.alpha[view] > _SOLID
    whole = _window(solid)
    left, top = np.array([whole[1].start]), np.array([whole[0].start])
    solid = solid[whole]
    camera = views.cameras.take([view]).cropped(left, top, solid.shape[1], solid.shape[0])
    drawn = render_mesh(mesh.vertices, mesh.faces, textured.uvs, textured.texture, camera)[0]
    hit = rasterize_mesh(
        mesh.vertices, mesh.faces, camera.world_from_camera[0], camera.intrinsics[0], *solid.shape[::-1]
    )
    inside = (drawn[..., 3] >= 1) & solid & (hit.face >= 0)
    window = _window(inside)
    uv = np.einsum("nk,nkc->nc", hit.barycentric[inside], textured.uvs[hit.face[inside]])
    s = np.clip(uv[:, 0] * grid - 0.5, 0, grid - 1)
    t = np.clip((1 - uv[:, 1]) * grid - 0.5, 0, grid - 1)
    left, top = np.minimum(s.astype(np.uint32), grid - 2), np.minimum(t.astype(np.uint32), grid - 2)
    cell = (top * np.uint32(grid) + left) << 12 | _in_steps(s - left, 63) << 6 | _in_steps(t - top, 63)
    red, green, blue = _in_steps(drawn[..., :3][inside].T, 1023)
    row, column = np.nonzero(inside[window])
    return Lookup(
        tuple(
            slice(w.start + part.start, w.start + part.stop) for w, part in zip(whole, window, strict=True)
        ),
        np.searchsorted(row, np.arange(window[0].stop - window[0].start + 1)).astype(np.int32),
        column.astype(np.uint16),
        cell,
        red << 20 | green << 10 | blue,
    )


def _window(shown: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a picture (H, W) bool that hold all it shows, and _MARGIN more; not empty."""
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(shown.any(axis=axis))
        low, high = (places[0], places[-1] + 1) if len(places) else (0, 1)
        spans.append(slice(max(low - _MARGIN, 0), min(high + _MARGIN, shown.shape[1 - axis])))
    return spans[0], spans[1]


def _in_steps(values: np.ndarray, steps: int) -> np.ndarray:
    """0..1 in `steps` steps, uint32."""
    return np.rint(values * np.float32(steps)).clip(0, steps).astype(np.uint32)


def _target(views: Views, view: int, window: tuple[slice, slice]) -> np.ndarray:
    """(4, h, w) float32: the view over white, and alpha."""
    rgba = views.rgba[view, window[0], window[1]]
    planes = np.empty((4, *rgba.shape[:2]), dtype=np.float32)
    planes[3] = rgba[..., 3]
    clear = 1 - planes[3]
    for channel in range(3):
        np.multiply(rgba[..., channel], planes[3], out=planes[channel])
        planes[channel] += clear
    return planes


def _changed(texture: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The texture (T, T, 3) with the change (3, grid, grid) added, 0..1."""
    import cv2

    size = texture.shape[0]
    fine = np.ascontiguousarray(change.transpose(1, 2, 0))
    if fine.shape[0] != size:
        fine = cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)
    fine += texture
    return np.clip(fine, 0, 1, out=fine)
