"""OBJ, PLY, STL and the finishing touches of GLB: read back by trimesh and by hand; axes, metres, quads."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.geometry.quad_pairs import pair_triangles
from backend.pipeline.options import ExportOptions, SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Picture, TexturedMesh, Views
from backend.stages.export.files import FilesExport
from backend.stages.export.glb import QUADS, write_glb
from backend.stages.export.mesh_formats import write_mesh
from backend.stages.export.quads import seamless_quads
from backend.stages.surface.finish import finish
from backend.stages.surface.hull import HullSurface
from shared_protocol.conventions import gltf_from_world, world_from_gltf
from tests.support.gltf_check import check_glb, read_glb
from tests.support.solids import one_splat, render_views
from tests.unit.test_surface import cameras_for


def ball(quads=True, normal_map=False, lods=()):
    """An uneven ball away from the origin in two charts, its triangles in pairs."""
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    sphere.vertices *= [1, 0.8, 1.3]
    vertices = sphere.vertices.astype(np.float32) + np.array([0.1, -0.2, 3.0], dtype=np.float32)
    faces, pairs = pair_triangles(vertices, sphere.faces)
    corner = (vertices - [0.1, -0.2, 3.0])[faces]
    front = corner.mean(axis=1)[:, 1] < 0
    uvs = corner[..., [0, 2]] * 0.35 + 0.25 + np.where(front, 0, 0.5)[:, None, None] * np.array([1, 0])
    texture = np.random.default_rng(3).random((64, 64, 3), dtype=np.float32)
    normals = np.full((64, 64, 3), [0.5, 0.5, 1.0], dtype=np.float32) if normal_map else None
    mesh = Mesh(vertices, faces, pairs if quads else None)
    return TexturedMesh(mesh, np.clip(uvs, 0, 1).astype(np.float32), texture, normals, 0.7, lods)


def read_obj(data):
    rows = {"v": [], "vt": [], "vn": [], "f": []}
    for line in data.decode().splitlines():
        kind, *values = line.split()
        if kind in rows:
            rows[kind].append(values)
    vertices = np.array(rows["v"], dtype=np.float64)
    return (
        vertices,
        np.array(rows["vt"], dtype=np.float64),
        [[tuple(int(n) - 1 for n in corner.split("/")) for corner in face] for face in rows["f"]],
    )


def test_obj_has_real_quads_shared_vertices_and_its_own_pictures():
    textured = ball(normal_map=True)
    files = write_mesh(textured, "obj", "auto", "mesh")
    assert sorted(files) == ["mesh.mtl", "mesh.obj", "mesh.png", "mesh_normal.png"]
    vertices, uvs, faces = read_obj(files["mesh.obj"])
    quads = seamless_quads(textured)
    assert 0.8 * len(textured.mesh.quads) < len(quads) < len(textured.mesh.quads)
    assert sum(len(face) == 4 for face in faces) == len(quads)
    assert sum(len(face) - 2 for face in faces) == len(textured.mesh.faces)
    np.testing.assert_allclose(vertices, gltf_from_world(textured.mesh.vertices), atol=1e-7)
    corners = {tuple(sorted(v for v, _, _ in face)) for face in faces if len(face) == 4}
    assert corners < {tuple(sorted(row)) for row in textured.mesh.quad_corners().tolist()}
    near = dict(zip(map(tuple, textured.mesh.faces.tolist()), textured.uvs, strict=True))
    triangle = next(face for face in faces if len(face) == 3)
    np.testing.assert_allclose(
        uvs[[t for _, t, _ in triangle]], near[tuple(v for v, _, _ in triangle)], atol=1e-6
    )
    material = files["mesh.mtl"].decode()
    assert "map_Kd mesh.png" in material and "Pr 0.7" in material and "mesh_normal.png" in material
    pixels = np.asarray(Image.open(io.BytesIO(files["mesh.png"])))
    np.testing.assert_array_equal(pixels, np.rint(textured.texture * 255).astype(np.uint8))


def test_trimesh_reads_every_format_as_the_same_closed_solid():
    textured = ball()
    expected = trimesh.Trimesh(textured.mesh.vertices, textured.mesh.faces)
    for kind, up in (("obj", "z"), ("ply", "auto"), ("stl", "auto"), ("stl", "y")):
        files = write_mesh(textured, kind, up, "mesh")
        mesh = trimesh.load(
            io.BytesIO(files[f"mesh.{kind}"]), file_type=kind, force="mesh",
            **({"maintain_order": True, "skip_materials": True} if kind == "obj" else {}),
        )  # fmt: skip
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        assert mesh.is_watertight and mesh.is_winding_consistent, (kind, up)
        assert mesh.volume == pytest.approx(expected.volume, rel=1e-5)
        centre = world_from_gltf(mesh.bounds.mean(axis=0)) if up == "y" else mesh.bounds.mean(axis=0)
        np.testing.assert_allclose(centre, [0.1, -0.2, 3.0], atol=1e-5)


def test_ply_carries_the_texture_as_colours():
    textured = ball()
    gradient = np.zeros((64, 64, 3), dtype=np.float32)
    gradient[..., 0] = np.linspace(0, 1, 64)
    data = write_mesh(TexturedMesh(textured.mesh, textured.uvs, gradient), "ply", "auto", "mesh")["mesh.ply"]
    mesh = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
    inside = textured.mesh.faces[:, 0]
    seen = mesh.visual.vertex_colors[inside, 0] / 255
    assert np.abs(seen - textured.uvs[:, 0, 0]).mean() < 0.05


def test_glb_brings_normal_map_tangents_roughness_and_the_number_of_quads():
    textured = ball(normal_map=True)
    data = write_glb(textured)
    arrays = check_glb(data)
    document, _ = read_glb(data)
    assert document["materials"][0]["normalTexture"] == {"index": 1}
    assert arrays["material"]["roughnessFactor"] == pytest.approx(0.7)
    tangents, normals = arrays["TANGENT"], arrays["NORMAL"]
    np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=5e-4)
    assert set(tangents[:, 3].tolist()) <= {-1.0, 1.0}
    assert np.abs((tangents[:, :3] * normals).sum(axis=1)).max() < 1e-4
    # Along the tangent u grows; across it, by the sign, v grows upward, which is against glTF's v.
    corner, uv = arrays["POSITION"][arrays["indices"]], arrays["TEXCOORD_0"][arrays["indices"]]
    d = corner[:, 1] - corner[:, 0]
    du, dv = (uv[:, 1] - uv[:, 0]).T
    t = tangents[arrays["indices"][:, 0]]
    b = np.cross(normals[arrays["indices"][:, 0]], t[:, :3]) * t[:, 3:]
    assert np.corrcoef((d * t[:, :3]).sum(axis=1), du)[0, 1] > 0.6
    assert np.corrcoef((d * b).sum(axis=1), -dv)[0, 1] > 0.6
    count = document["meshes"][0]["primitives"][0]["extras"][QUADS]
    pairs = corner[: 2 * count].reshape(count, 2, 3, 3)
    assert np.array_equal(pairs[:, 0, [0, 2]], pairs[:, 1, [0, 1]])


def test_every_format_of_every_copy_is_among_the_files():
    textured = ball(lods=(ball(quads=False),))
    views = Views(np.ones((1, 8, 8, 4), np.float32), cameras_for(8, 1))
    options = ExportOptions(turntable=False, mesh_formats="obj,stl")
    context = StageContext("export", None, "files")
    files = FilesExport().write(Picture(views.rgba[0]), views, one_splat(), textured, options, context).files
    assert {"mesh.glb", "mesh.obj", "mesh.stl", "mesh_lod1.glb", "mesh_lod1.obj", "mesh_lod1.stl"} <= set(
        files
    )
    assert not any(name.endswith(".ply") and name.startswith("mesh") for name in files)
    assert b"mtllib mesh_lod1.mtl" in files["mesh_lod1.obj"]


def test_an_object_seen_in_metres_comes_out_in_metres_at_its_place():
    egg = trimesh.creation.icosphere(3, radius=0.2)
    egg.vertices[:] = egg.vertices * [1.2, 1, 1.4] + [0.12, -0.05, 0.08]
    views = render_views(np.asarray(egg.vertices), np.asarray(egg.faces), cameras_for(128, 12))
    context = StageContext("surface", HullSurface(), "hull")
    options = SurfaceOptions(grid=48, faces=2000, carve=False, lods="1")
    mesh = finish(context.engine.reconstruct(views, one_splat(), options, context), options, context)
    for solid in (mesh, *mesh.lods):
        low, high = solid.vertices.min(axis=0), solid.vertices.max(axis=0)
        np.testing.assert_allclose([low, high], egg.bounds, atol=0.02)
        flat = np.zeros((len(solid.faces), 3, 2), np.float32)
        textured = TexturedMesh(solid, flat, np.zeros((4, 4, 3), np.float32))
        glb = check_glb(write_glb(textured))["POSITION"]
        np.testing.assert_allclose(world_from_gltf(glb).min(axis=0), low, atol=1e-6)
        vertices, _, _ = read_obj(write_mesh(textured, "obj", "auto", "m")["m.obj"])
        np.testing.assert_allclose(world_from_gltf(vertices).max(axis=0), high, atol=1e-6)
