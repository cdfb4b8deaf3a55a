"""Pictures of Gaussians, as plainly as possible: the reference that drawings are compared with.

Float64, one Gaussian after another, far to near, in the pixels that its ellipse reaches. The image formation
is that of 3D Gaussian Splatting (Kerbl 2023) with GSplat 1.5's numbers; an object's matrix is applied to
the covariance. The harmonics are scipy-free polynomials written out once more, not those of the product.
"""

import numpy as np


def basis(directions: np.ndarray) -> np.ndarray:
    """(G, 3) unit -> (G, 16) real harmonics, INRIA's signs: built from the complex ones' definition."""
    x, y, z = directions.T
    # r^l sin(m phi), r^l cos(m phi) parts of degree l by recursion; Legendre parts by hand.
    s1, c1 = y, x
    s2, c2 = 2 * x * y, x * x - y * y
    s3, c3 = s2 * x + c2 * y, c2 * x - s2 * y
    one = np.ones_like(x)
    rows = [0.5 * np.sqrt(1 / np.pi) * one]
    k = np.sqrt(3 / (4 * np.pi))
    rows += [-k * s1, k * z, -k * c1]
    k0, k1, k2 = 0.25 * np.sqrt(5 / np.pi), 0.5 * np.sqrt(15 / np.pi), 0.25 * np.sqrt(15 / np.pi)
    rows += [k2 * s2, -k1 * s1 * z, k0 * (3 * z * z - 1), -k1 * c1 * z, k2 * c2]
    a, b = 0.25 * np.sqrt(7 / np.pi), 0.25 * np.sqrt(21 / (2 * np.pi))
    c, d = 0.25 * np.sqrt(105 / np.pi), 0.25 * np.sqrt(35 / (2 * np.pi))
    rows += [-d * s3, c * s2 * z, -b * s1 * (5 * z * z - 1), a * z * (5 * z * z - 3)]
    rows += [-b * c1 * (5 * z * z - 1), c * c2 * z, -d * c3]
    return np.stack(rows, axis=1)


def turns(rotations: np.ndarray) -> np.ndarray:
    """(G, 4) wxyz of any length -> (G, 3, 3)."""
    w, x, y, z = (rotations / np.linalg.norm(rotations, axis=1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )


def picture(
    objects, view_from_world, projection, width, height, *, filtered=False, scene_depth=None
) -> np.ndarray:
    """(height, width, 4) premultiplied, sRGB-encoded, rows from the top.

    objects      [(splats, world_from_object)], splats with positions, scales, rotations, opacities, harmonics
    projection   (4, 4) OpenGL clip space; scene_depth (height, width) window depths, rows from the top
    """
    columns = [
        _project(splats, matrix, view_from_world, projection, width, height, filtered)
        for splats, matrix in objects
    ]
    middles, covariances, away, depths, colors, opacities = (
        np.concatenate(c) for c in zip(*columns, strict=True)
    )
    result = np.zeros((height, width, 4))
    for g in np.argsort(-away, kind="stable"):
        cov = covariances[g]
        opacity = opacities[g]
        if opacity < 1 / 255:
            continue
        reach = np.sqrt(2 * np.log(255 * opacity)) * np.sqrt(np.diag(cov))
        low = np.maximum(np.floor(middles[g] - reach), 0).astype(int)
        high = np.minimum(np.ceil(middles[g] + reach) + 1, (width, height)).astype(int)
        if (low >= high).any():
            continue
        dx = np.arange(low[0], high[0]) + 0.5 - middles[g, 0]
        dy = np.arange(low[1], high[1]) + 0.5 - middles[g, 1]
        conic = np.linalg.inv(cov)
        power = conic[0, 0] * dx[None] ** 2 + 2 * conic[0, 1] * dx[None] * dy[:, None]
        alpha = np.minimum(opacity * np.exp(-0.5 * (power + conic[1, 1] * dy[:, None] ** 2)), 0.999)
        alpha[alpha < 1 / 255] = 0
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        if scene_depth is not None:
            alpha[depths[g] > scene_depth[::-1][box]] = 0
        result[box] *= 1 - alpha[..., None]
        result[box] += alpha[..., None] * np.append(colors[g], 1.0)
    return result[::-1]


def _project(splats, matrix, view_from_world, projection, width, height, filtered):
    """Pixels from the lower left corner."""
    positions = np.asarray(splats.positions, np.float64)
    matrix, p = np.asarray(matrix, np.float64), np.asarray(projection, np.float64)
    view = view_from_world @ matrix
    seen = positions @ view[:3, :3].T + view[:3, 3]
    clip = np.concatenate([seen, np.ones((len(seen), 1))], axis=1) @ p.T
    perspective = p[3, 3] == 0
    keep = -seen[:, 2] > 0.01 if perspective else np.abs(clip[:, 2]) <= 1
    seen, clip = seen[keep], clip[keep]
    screen = np.array([width, height]) / 2
    middles = (1 + clip[:, :2] / clip[:, 3:]) * screen
    focal = np.diag(p)[:2] * screen
    jacobian = np.zeros((len(seen), 2, 3))
    if perspective:
        center = (1 - p[:2, 2]) * screen
        margin = 0.3 * screen / focal
        away = -seen[:, 2:]
        slope = np.clip(seen[:, :2] / away, -center / focal - margin, (2 * screen - center) / focal + margin)
        jacobian[:, 0, 0], jacobian[:, 1, 1] = (focal / away).T
        jacobian[:, :, 2] = focal * slope / away
        eye = np.linalg.inv(view)[:3, 3]
        rays = positions[keep] - eye
    else:
        jacobian[:, 0, 0], jacobian[:, 1, 1] = focal
        rays = np.tile(-np.linalg.inv(view)[:3, 2], (len(seen), 1))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    axes = turns(np.asarray(splats.rotations, np.float64)[keep]) * splats.scales[keep][:, None, :]
    axes = jacobian @ view[:3, :3] @ axes
    covariances = axes @ axes.transpose(0, 2, 1)
    low_passed = covariances + 0.3 * np.eye(2)
    opacities = np.asarray(splats.opacities, np.float64)[keep]
    if filtered:
        opacities = opacities * np.sqrt(np.maximum(np.linalg.det(covariances), 0) / np.linalg.det(low_passed))
    harmonics = np.asarray(splats.harmonics, np.float64)[keep]
    weights = basis(rays)[:, : harmonics.shape[1]]
    colors = np.maximum(0.5 + np.einsum("gk,gkc->gc", weights, harmonics), 0)
    depths = 0.5 + 0.5 * clip[:, 2] / clip[:, 3]
    return middles, low_passed, -seen[:, 2], depths, colors, opacities


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures in 0..1; at most 150."""
    error = np.mean((np.clip(a, 0, 1) - np.clip(b, 0, 1)) ** 2)
    return float(-10 * np.log10(max(error, 1e-15)))


def over_white(picture: np.ndarray) -> np.ndarray:
    """Premultiplied (H, W, 4) -> (H, W, 3)."""
    return picture[..., :3] + 1 - picture[..., 3:]
