"""Filling: push-pull in pictures, the membrane on the surface, bleeding around charts."""

import numpy as np
import trimesh

from backend.pipeline.values import Mesh
from backend.stages.texture.atlas import Texels, lay_out_texels
from backend.stages.texture.fill import bleed, diffuse_over_surface, fill_unseen
from backend.stages.texture.push_pull import push_pull


def _never() -> None:
    return None


def _sphere() -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    return Mesh(sphere.vertices, sphere.faces)


def _surface_samples(mesh: Mesh) -> Texels:
    """One texel at the middle of every face."""
    count = len(mesh.faces)
    weights = np.full((count, 3), 1 / 3, dtype=np.float32)
    positions = mesh.vertices[mesh.faces].mean(axis=1)
    normals = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    return Texels(64, np.arange(count), np.arange(count, dtype=np.int32), weights, positions, normals)


def test_push_pull_keeps_known_pixels_and_a_constant_stays_constant():
    rng = np.random.default_rng(0)
    weight = (rng.random((37, 50)) < 0.02).astype(np.float32)
    weight[3, 4] = 1
    colors = np.full((37, 50, 3), 0.7, dtype=np.float32)
    np.testing.assert_allclose(push_pull(colors * weight[..., None], weight), 0.7, atol=1e-5)
    noisy = rng.random((37, 50, 3), dtype=np.float32)
    filled = push_pull(noisy * weight[..., None], weight)
    np.testing.assert_array_equal(filled[weight == 1], noisy[weight == 1])
    assert filled.min() >= -1e-5 and filled.max() <= noisy[weight == 1].max() + 1e-5


def test_push_pull_of_nothing_is_black_and_of_one_pixel_is_that_pixel():
    colors = np.zeros((5, 9, 3), dtype=np.float32)
    assert (push_pull(colors, np.zeros((5, 9), dtype=np.float32)) == 0).all()
    colors[2, 8] = (0.2, 0.4, 0.6)
    weight = np.zeros((5, 9), dtype=np.float32)
    weight[2, 8] = 1
    np.testing.assert_allclose(
        push_pull(colors, weight), np.broadcast_to((0.2, 0.4, 0.6), (5, 9, 3)), atol=1e-5
    )


def test_the_membrane_solves_the_laplace_equation_between_held_vertices():
    mesh = _sphere()
    weight = np.zeros(len(mesh.vertices))
    low, high = mesh.vertices[:, 2].argmin(), mesh.vertices[:, 2].argmax()
    weight[[low, high]] = 1e6
    colors = np.zeros((len(weight), 3))
    colors[high] = 1
    x = diffuse_over_surface(mesh, colors, weight, _never, iterations=2000)[:, 0]
    np.testing.assert_allclose(x[[low, high]], (0, 1), atol=1e-3)
    assert x.min() > -1e-3 and x.max() < 1 + 1e-3
    edges = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).edges_unique
    means = np.zeros(len(x))
    degree = np.bincount(edges.ravel(), minlength=len(x))
    np.add.at(means, edges[:, 0], x[edges[:, 1]])
    np.add.at(means, edges[:, 1], x[edges[:, 0]])
    free = weight == 0
    np.testing.assert_allclose(x[free], (means / degree)[free], atol=2e-3)


def test_unseen_surface_takes_the_colour_of_the_surface_around_it():
    mesh = _sphere()
    texels = _surface_samples(mesh)
    truth = np.repeat(0.5 + 0.8 * texels.positions[:, 2:3], 3, axis=1)
    seen = (texels.positions[:, 0] < 0.35).astype(np.float32)  # a cap is unseen
    colors = np.where(seen[:, None] > 0, truth, 0)
    filled = fill_unseen(mesh, texels, colors, seen, _never)
    np.testing.assert_array_equal(filled[seen > 0], colors[seen > 0])
    np.testing.assert_allclose(filled[seen == 0], truth[seen == 0], atol=0.12)


def test_a_mesh_that_no_view_sees_is_grey_and_a_separate_unseen_part_takes_the_mean():
    mesh = _sphere()
    texels = _surface_samples(mesh)
    nothing = np.zeros(len(texels), dtype=np.float32)
    assert (fill_unseen(mesh, texels, np.zeros((len(texels), 3)), nothing, _never) == 0.5).all()
    two = Mesh(
        np.vstack([mesh.vertices, mesh.vertices + [3, 0, 0]]),
        np.vstack([mesh.faces, mesh.faces + len(mesh.vertices)]),
    )
    weight = np.r_[np.ones(len(mesh.vertices)), np.zeros(len(mesh.vertices))]
    colors = np.full((len(two.vertices), 3), 0.3)
    np.testing.assert_allclose(diffuse_over_surface(two, colors, weight, _never), 0.3, atol=1e-4)


def test_texels_lie_on_the_surface_and_bleeding_repeats_the_border_of_a_chart():
    mesh = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))
    uvs = np.array([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]]], dtype=np.float32)
    texels = lay_out_texels(mesh, uvs, 32)
    assert abs(len(texels) - 0.125 * 32**2) < 12
    u = (texels.index % 32 + 0.5) / 32
    v = 1 - (texels.index // 32 + 0.5) / 32
    expected = np.column_stack([(u - 0.25) * 2, np.zeros_like(u), (v - 0.25) * 2])
    np.testing.assert_allclose(texels.positions, expected, atol=1e-5)
    np.testing.assert_allclose(texels.normals, np.broadcast_to((0, -1, 0), texels.normals.shape), atol=1e-6)
    colors = np.repeat(u[:, None], 3, axis=1)
    atlas = bleed(texels, colors, _never)
    np.testing.assert_allclose(atlas.reshape(-1, 3)[texels.index], colors, atol=1e-6)
    left = atlas[20, 7, 0]  # one texel left of the chart's border column 8
    np.testing.assert_allclose(left, 8.5 / 32, atol=0.02)
    assert np.isfinite(atlas).all() and atlas.min() > 0.2
