"""What `reconstruct` writes, before judges that are not ours: Khronos' validator, trimesh, plain geometry."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.support import gltf_validator
from tests.support.shared import shared_path
from tests.support.small_result import make, reconstruct
from tests.support.uv_overlap import overlapping_pairs

CHARTS = 100
"""At most, at 20,000 faces."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A result with everything that a GLB of ours may hold: levels of detail, a normal map."""
    folder = tmp_path_factory.mktemp("conformance")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORRERY_CACHE", str(folder / "cache"))
        return make(folder)


def _glbs(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.glb"))
    assert found
    return found


def _parts(path: Path) -> list[trimesh.Trimesh]:
    """The meshes of a file as they are stored, split at UV seams."""
    return list(trimesh.load(path, force="scene", process=False).geometry.values())


def _charts(mesh: trimesh.Trimesh) -> int:
    return len(
        trimesh.graph.connected_components(mesh.face_adjacency, nodes=np.arange(len(mesh.faces)), min_len=1)
    )


def check_khronos(folder: Path) -> None:
    """Not an error, a warning, an information or a hint."""
    if gltf_validator.why_not():
        pytest.skip(gltf_validator.why_not())
    found = {path.name: gltf_validator.validate(path) for path in _glbs(folder)}
    assert {name: issues for name, issues in found.items() if issues} == {}


def check_layouts(folder: Path) -> None:
    """Few charts, inside the square, nowhere on top of each other."""
    for path in _glbs(folder):
        for mesh in _parts(path):
            uvs = np.asarray(mesh.visual.uv)
            assert np.isfinite(uvs).all() and uvs.min() >= 0 and uvs.max() <= 1
            assert _charts(mesh) <= CHARTS, path.name
            assert len(overlapping_pairs(uvs[mesh.faces], depth=1e-5)) == 0, path.name


def check_solids(folder: Path) -> None:
    """Welded, each mesh is closed, wound outward, without faces of no area."""
    for path in _glbs(folder):
        for mesh in _parts(path):
            mesh.merge_vertices(merge_tex=True, merge_norm=True)
            assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0, path.name
            assert mesh.area_faces.min() > 0 and len(mesh.faces) == len(mesh.unique_faces().nonzero()[0])
            # Closed and wound alike leave one way to be no manifold: two cones that touch in a vertex.
            fans = trimesh.graph.connected_components(
                _corner_links(mesh), nodes=np.arange(mesh.faces.size), min_len=1
            )
            assert len(fans) == len(mesh.vertices), path.name


def _corner_links(mesh: trimesh.Trimesh) -> np.ndarray:
    """(L, 2) corners (3 f + k) of one vertex in two faces that share an edge there."""
    links = []
    for (a, b), edge in zip(mesh.face_adjacency, mesh.face_adjacency_edges, strict=True):
        for vertex in edge:
            links.append([3 * f + int(np.flatnonzero(mesh.faces[f] == vertex)[0]) for f in (a, b)])
    return np.array(links)


def test_khronos_validator_has_nothing_to_say(written):
    check_khronos(written)


def test_uv_charts_are_few_and_do_not_overlap(written):
    check_layouts(written)


def test_every_mesh_is_a_closed_solid(written):
    check_solids(written)


@pytest.mark.parametrize(
    ("second", "count"),
    [
        ([[1, 0], [1, 1], [0, 1]], 0),  # the other half of the square
        ([[0.6, 0.6], [1, 1], [0.6, 1]], 0),  # apart
        ([[0, 0], [1, 0], [0, 1]], 1),  # the same again
        ([[0, 0], [0, 1], [1, 0]], 1),  # the same, mirrored
        ([[0.1, 0.1], [0.2, 0.1], [0.1, 0.2]], 1),  # inside
        ([[0.9, 0.0], [1, 1], [0.9, 1]], 1),  # a corner of it
        ([[0, 0], [1, 0], [0.5, 0]], 0),  # of no area
    ],
)
def test_the_judge_of_overlaps_tells_touching_from_overlapping(second, count):
    first = [[0, 0], [1, 0], [0, 1]]
    assert len(overlapping_pairs(np.array([first, second]))) == count
    small = np.array([first, second]) * 1e-2 + 0.4
    assert len(overlapping_pairs(small)) == count


@pytest.mark.slow
@pytest.mark.quality
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "mesh", ["gso/lunch_box/model.obj", "gso/boat_shoe/model.obj", "gltf/milk_truck.glb", "gltf/duck.glb"]
)
def test_results_of_scans_at_standard_quality_conform(mesh, tmp_path):
    out = reconstruct(shared_path("data", "objects", *mesh.split("/")), tmp_path, 16, 512)
    check_khronos(out)
    check_solids(out)
    check_layouts(out)
