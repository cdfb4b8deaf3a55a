"""Measures of UV layouts against layouts of known quality."""

import numpy as np
import pytest

from backend.geometry.uv_check import measure_uvs, narrowest_gap, overlapping_texels, uv_islands

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def _uvs(matrix: np.ndarray, offset: tuple[float, float] = (0.1, 0.1)) -> np.ndarray:
    return (SQUARE[:, :2] @ np.asarray(matrix).T + offset)[FACES]


def test_an_isometry_is_perfect_whatever_its_scale_and_turn():
    c, s = np.cos(0.4) * 0.5, np.sin(0.4) * 0.5
    quality = measure_uvs(SQUARE, FACES, _uvs([[c, -s], [s, c]], (0.4, 0.1)))
    assert (quality.stretch, quality.angle, quality.area, quality.density_span) == pytest.approx((1, 1, 1, 1))
    assert quality.utilisation == pytest.approx(0.25)
    assert quality.flipped == quality.collapsed == 0


def test_a_layout_stretched_to_double_width():
    quality = measure_uvs(SQUARE, FACES, _uvs(np.diag([0.6, 0.3])))
    # Areas are kept up to scale; singular values over the scale are sqrt(2) and its inverse.
    assert quality.stretch == pytest.approx(np.sqrt((2 + 0.5) / 2))
    assert quality.angle == pytest.approx((2 + 0.5) / 2)
    assert quality.area == pytest.approx(1)


def test_uneven_density_mirrored_and_collapsed_faces_are_found():
    uvs = _uvs(np.diag([0.3, 0.3]))
    uvs[1] = uvs[1] * 0.5 + 0.5
    assert measure_uvs(SQUARE, FACES, uvs).density_span == pytest.approx(2)
    assert measure_uvs(SQUARE, FACES, _uvs(np.diag([-0.3, 0.3]), (0.5, 0.1))).flipped == 2
    uvs[1] = 0.5
    assert measure_uvs(SQUARE, FACES, uvs).collapsed == 1


def test_texels_that_two_triangles_cover_are_counted_and_shared_edges_are_not():
    uvs = _uvs(np.diag([0.5, 0.5]), (0.25, 0.25))
    assert overlapping_texels(uvs, 64) == 0
    uvs[1] = uvs[0]
    # Half of 32 x 32 texels, without those on the diagonal.
    assert overlapping_texels(uvs, 64) == pytest.approx(32 * 31 / 2, abs=32)


def test_islands_and_the_gap_between_them():
    uvs = _uvs(np.diag([0.25, 0.25]), (0.125, 0.125))
    assert len(set(uv_islands(FACES, uvs))) == 1
    uvs[1] += (-0.0625, 0.0625)
    islands = uv_islands(FACES, uvs)
    assert len(set(islands)) == 2
    # Moved across the diagonal by 4 texels along each axis: rows of texel centres are 4 sqrt(2) apart.
    assert narrowest_gap(islands, uvs, 64, 20) in (4, 5)
    assert narrowest_gap(islands, uvs, 64, 2) == 2
