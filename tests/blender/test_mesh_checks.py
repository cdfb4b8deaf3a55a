"""Real results under Blender's own checks: no open or crossed edge, no empty or flipped face."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")
bmesh = pytest.importorskip("bmesh")

from blender_addon.importers.mesh import import_mesh  # noqa: E402
from tests.support.shared import shared_path  # noqa: E402

pytestmark = pytest.mark.blender

ROOT = Path(__file__).resolve().parents[2]
BACKEND = os.environ.get("ORRERY_BACKEND_PYTHON") or str(
    ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
)
SMALLEST_AREA = 1e-12
"""Square metres: below it Blender's normals are noise."""


def _backend(*arguments: str, cache: Path) -> None:
    """Run the backend's Python."""
    if not Path(BACKEND).exists():
        pytest.skip(f"no backend at {BACKEND}; set ORRERY_BACKEND_PYTHON")
    done = subprocess.run(
        [BACKEND, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "ORRERY_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def small_result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    _backend("tests.support.small_result", str(folder), cache=folder / "cache")
    return folder / "out"


def check(item: bpy.types.Object, faces: int) -> None:
    """Every check on a copy of the object's mesh, as it came in: nothing is welded here."""
    mesh = item.data
    assert not mesh.validate(verbose=True), "mesh.validate() found something to mend"
    assert len(mesh.polygons) == faces
    assert np.allclose(np.array(item.matrix_world), np.eye(4))
    edited = bmesh.new()
    edited.from_mesh(mesh)
    try:
        found = {
            "open or crossed edges": [e.index for e in edited.edges if not e.is_manifold],
            "edges between faces turned against each other": [
                e.index for e in edited.edges if not e.is_contiguous
            ],
            "vertices that are no manifold": [v.index for v in edited.verts if not v.is_manifold],
            "loose vertices": [v.index for v in edited.verts if not v.link_faces],
            "loose edges": [e.index for e in edited.edges if not e.link_faces],
            "faces without area": [f.index for f in edited.faces if f.calc_area() < SMALLEST_AREA],
        }
        assert {what: number for what, number in found.items() if number} == {}
        assert edited.calc_volume(signed=True) > 0
        _check_normals_point_outward(edited)
        count = len(edited.verts)
        bmesh.ops.remove_doubles(edited, verts=edited.verts, dist=1e-6)
        assert len(edited.verts) == count, "vertices lie on top of each other"
    finally:
        edited.free()


def _check_normals_point_outward(edited: "bmesh.types.BMesh") -> None:
    """Blender's "recalculate outside" turns no face."""
    before = np.array([face.normal[:] for face in edited.faces])
    copy = edited.copy()
    try:
        bmesh.ops.recalc_face_normals(copy, faces=copy.faces)
        after = np.array([face.normal[:] for face in copy.faces])
    finally:
        copy.free()
    assert (np.einsum("fc,fc->f", before, after) > 0).all(), "faces are flipped"


def _faces_of(path: Path) -> int:
    """Triangles that the file holds, from its JSON chunk."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    primitives = [primitive for mesh in document["meshes"] for primitive in mesh["primitives"]]
    return sum(document["accessors"][primitive["indices"]]["count"] for primitive in primitives) // 3


def check_files(folder: Path) -> None:
    """Every GLB through the add-on, and through Blender's importer with its welding alone."""
    for path in sorted(folder.rglob("*.glb")):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        item = import_mesh(path, path.stem, bpy.context.scene.collection)
        check(item, _faces_of(path))
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.ops.import_scene.gltf(filepath=str(path), merge_vertices=True)
        (plain,) = [other for other in bpy.data.objects if other.type == "MESH"]
        check(plain, _faces_of(path))


def test_a_result_passes_blenders_mesh_checks(blender, small_result):
    check_files(small_result)


@pytest.mark.slow
@pytest.mark.quality
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["drill", "mug", "duck_noise1"])
def test_results_of_scans_pass_blenders_mesh_checks(blender, name, tmp_path):
    views = shared_path("data", "protocol", name)
    _backend("backend", "reconstruct", str(views), "-o", str(tmp_path / "out"), cache=tmp_path / "cache")
    check_files(tmp_path / "out")
