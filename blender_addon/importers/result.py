"""The files of one finished job -> a collection: mesh and Gaussians in one frame, standing on the floor."""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from .cameras import import_cameras
from .mesh import import_mesh
from ..splats.importing import import_splats, prepare_scene

SHOW_MESH, SHOW_GAUSSIANS, SHOW_BOTH = "MESH", "GAUSSIANS", "BOTH"


@dataclass(frozen=True)
class Placement:
    """Where and how a result is put into the scene.

    floor    lift mesh and Gaussians together so that the mesh's lowest point is at height 0
    cameras  add the orbit as one animated camera
    show     which of the two representations is visible: both at once overlap
    """

    floor: bool = True
    cameras: bool = False
    show: str = SHOW_MESH


@dataclass(frozen=True)
class Provenance:
    """What made a result; stored as custom properties."""

    job: str
    name: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)


def import_result(
    folder: Path, provenance: Provenance, placement: Placement, scene: bpy.types.Scene
) -> bpy.types.Collection:
    """Import `mesh.glb`, its coarser copies, `splats.ply` and `cameras.json` of `folder`, what is there.

    The coarser copies stand hidden in a collection of their own. On an error nothing stays in the file.
    """
    collection = bpy.data.collections.new(provenance.name)
    scene.collection.children.link(collection)
    try:
        _fill(collection, folder, provenance, placement)
    except BaseException:
        for item in list(collection.all_objects):
            bpy.data.objects.remove(item)
        for inner in list(collection.children_recursive):
            bpy.data.collections.remove(inner)
        bpy.data.collections.remove(collection)
        raise
    if any(gaussians(item) for item in collection.objects):
        prepare_scene(scene)
    return collection


def _fill(
    collection: bpy.types.Collection, folder: Path, provenance: Provenance, placement: Placement
) -> None:
    name = provenance.name
    made = []
    mesh = splats = None
    if (folder / "mesh.glb").exists():
        mesh = import_mesh(folder / "mesh.glb", name, collection)
        made.append(mesh)
        made += _lods(collection, folder, name)
    if (folder / "splats.ply").exists():
        splats = import_splats((folder / "splats.ply").read_bytes(), f"{name} Gaussians", collection)
        made.append(splats)
    if placement.cameras and (folder / "cameras.json").exists():
        made.append(import_cameras((folder / "cameras.json").read_bytes(), f"{name} orbit", collection))
    if mesh is not None:
        lift = -_lowest(mesh) if placement.floor else 0.0
        for item in made:
            if item is mesh:
                continue
            # One object to move: the others follow the mesh and keep their place relative to it.
            item.parent = mesh
        mesh.location.z += lift
    for owner in (collection, *made):
        owner["orrery_job"] = provenance.job
        owner["orrery_seed"] = provenance.seed
        owner["orrery_settings"] = json.dumps(provenance.settings, sort_keys=True)
    show(collection, placement.show if mesh is not None and splats is not None else SHOW_BOTH)
    _select(mesh or splats)


def _lods(collection: bpy.types.Collection, folder: Path, name: str) -> list[bpy.types.Object]:
    """The coarser copies, hidden: they lie where the mesh lies."""
    found = list(itertools.takewhile(Path.exists, (folder / lod_file(level) for level in range(1, 10))))
    if not found:
        return []
    below = bpy.data.collections.new(f"{name} LODs")
    collection.children.link(below)
    made = [import_mesh(path, f"{name} LOD{level}", below) for level, path in enumerate(found, start=1)]
    for item in made:
        item.hide_viewport = item.hide_render = True
    return made


def lod_file(level: int) -> str:
    """Name of the coarser copy's file; the finest is 1."""
    return f"mesh_lod{level}.glb"


def gaussians(item: bpy.types.Object) -> bool:
    """Whether this object holds Gaussians."""
    return "orrery_splat_layout" in item


def result_collections(scene: bpy.types.Scene) -> list[bpy.types.Collection]:
    """The collections of imported results in this scene."""
    return [c for c in scene.collection.children_recursive if "orrery_job" in c]


def show(collection: bpy.types.Collection, what: str) -> None:
    """Make the mesh, the Gaussians or both visible, in the viewport and in renders."""
    for item in collection.objects:
        if item.type == "CAMERA":
            continue
        hidden = what == (SHOW_MESH if gaussians(item) else SHOW_GAUSSIANS)
        item.hide_viewport = item.hide_render = hidden
    collection["orrery_show"] = what


def _lowest(mesh: bpy.types.Object) -> float:
    """Height of the lowest vertex, metres; a fresh mesh has no transform of its own."""
    points = np.empty(3 * len(mesh.data.vertices), np.float32)
    mesh.data.vertices.foreach_get("co", points)
    return float(points[2::3].min()) if points.size else 0.0


def _select(item: bpy.types.Object | None) -> None:
    layer = bpy.context.view_layer
    layer.update()  # takes in the new objects; a layer that changes while it is walked yields None
    if item is None or item.name not in layer.objects:
        return
    for other in list(layer.objects):
        other.select_set(other is item)
    layer.objects.active = item
