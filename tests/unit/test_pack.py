"""Packing flat shapes into the square."""

import numpy as np
import pytest

from backend.geometry.pack import pack
from shared_protocol.errors import Cancelled


def _never() -> None:
    return None


def _placed(outlines: list[np.ndarray], gap: float) -> tuple[list[np.ndarray], float]:
    packing = pack(outlines, gap, _never)
    return [
        packing.scale * outline @ packing.rotation[i].T + packing.offset[i]
        for i, outline in enumerate(outlines)
    ], packing.scale


def _star(rng: np.random.Generator) -> np.ndarray:
    angle = np.sort(rng.uniform(0, 2 * np.pi, 24))
    radius = rng.uniform(0.3, 1, 24) * rng.lognormal(0, 0.8)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]) + rng.normal(0, 10, 2)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two closed polygons' outlines: no point of one is nearer to the other than this."""
    along = np.linspace(0, 1, 40)[:, None, None]
    fine = (a * (1 - along) + np.roll(a, -1, axis=0) * along).reshape(-1, 1, 2)
    start, step = b[None], (np.roll(b, -1, axis=0) - b)[None]
    t = np.clip(((fine - start) * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-30), 0, 1)
    return float(np.linalg.norm(start + t[..., None] * step - fine, axis=-1).min())


@pytest.mark.parametrize("gap", [1 / 256, 1 / 64])
def test_shapes_keep_their_gap_from_each_other_and_half_of_it_from_the_rim(gap):
    rng = np.random.default_rng(3)
    outlines = [_star(rng) for _ in range(12)]
    placed, _ = _placed(outlines, gap)
    for i, outline in enumerate(placed):
        assert outline.min() >= gap / 2 and outline.max() <= 1 - gap / 2
        for other in placed[:i]:
            assert _distance(outline, other) >= gap * 0.999


def test_shapes_are_moved_turned_and_scaled_alike_and_never_mirrored():
    rng = np.random.default_rng(4)
    outlines = [_star(rng) for _ in range(5)]
    packing = pack(outlines, 1 / 128, _never)
    np.testing.assert_allclose(np.linalg.det(packing.rotation), 1)
    np.testing.assert_allclose(
        np.einsum("kij,klj->kil", packing.rotation, packing.rotation), np.broadcast_to(np.eye(2), (5, 2, 2)),
        atol=1e-12,
    )  # fmt: skip


def test_one_slanted_square_is_straightened_and_fills_the_atlas():
    c, s = np.cos(0.5), np.sin(0.5)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ np.array([[c, -s], [s, c]]).T * 7
    _, scale = _placed([square], 1 / 128)
    assert (7 * scale) ** 2 > 0.94


def test_squares_fill_most_of_the_square():
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    _, scale = _placed([square] * 16, 1 / 128)
    assert 16 * scale**2 > 0.88


def test_a_small_shape_goes_into_the_hole_of_a_large_one():
    frame = np.array([[0, 0], [10, 0], [10, 10], [0, 10], [0, 1], [1, 1], [1, 9], [9, 9], [9, 0.9], [0, 0.9]])
    small = np.array([[0.0, 0], [6, 0], [6, 6], [0, 6]])
    placed, scale = _placed([frame, small], 1 / 128)
    assert 10 * scale > 0.95
    assert (placed[1].min(axis=0) > placed[0].min(axis=0)).all()
    assert (placed[1].max(axis=0) < placed[0].max(axis=0)).all()


def test_hundreds_of_crumbs_fit_and_what_cannot_fit_is_said():
    rng = np.random.default_rng(5)
    triangles = [rng.random((3, 2)) for _ in range(400)]
    placed, scale = _placed(triangles, 1 / 128)
    assert scale > 0 and len(placed) == 400
    assert pack(triangles * 60, 1 / 128, _never) is None


def test_the_same_shapes_are_packed_alike():
    rng = np.random.default_rng(6)
    outlines = [_star(rng) for _ in range(20)]
    one, two = pack(outlines, 1 / 128, _never), pack(outlines, 1 / 128, _never)
    assert one.scale == two.scale
    np.testing.assert_array_equal(one.offset, two.offset)
    np.testing.assert_array_equal(one.rotation, two.rotation)


def test_packing_ends_when_cancelled():
    def cancel() -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        pack([np.eye(3)[:, :2]], 1 / 128, cancel)
