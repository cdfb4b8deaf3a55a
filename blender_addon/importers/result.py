"""The result of one job -> a collection: mesh and Gaussians in one frame, standing on the floor."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from ..splats import importing, layout
from . import place, reference
from .cameras import import_cameras
from .glb import GlbMesh
from .mesh import mesh_steps
from .prepare import Prepared, prepare
from .steps import finished

SHOW_MESH, SHOW_GAUSSIANS, SHOW_BOTH = "MESH", "GAUSSIANS", "BOTH"
_UNFINISHED = "orrery_unfinished"
_COPY = "orrery_copy"
_QUADS = 96
"""Along the longest side of a copy of quads."""


@dataclass(frozen=True)
class Placement:
    """Where and how a result is put into the scene.

    floor      the mesh's lowest point is its origin and at the height of the place, else the frame's middle
    cameras    add the orbit as one animated camera
    show       which of the two representations is visible: both at once overlap
    at         see `place`
    size       longest side of the mesh's box, metres; 0 as it was made
    smooth     the mesh is shaded so, else each face is flat
    lods       import the coarser copies
    texture    pixels that an edge of a texture has at most, 0 as it was made
    decimate   share of faces that a hidden copy with a Decimate modifier keeps; 0 for no copy
    quads      a hidden copy whose Remesh modifier makes quads of even size, without the texture
    reference  the input beside it, see `reference`
    pack       that picture is packed into the .blend file
    """

    floor: bool = True
    cameras: bool = False
    show: str = SHOW_MESH
    at: str = place.ORIGIN
    size: float = 0.0
    smooth: bool = True
    lods: bool = True
    texture: int = 0
    decimate: float = 0.0
    quads: bool = False
    reference: str = reference.NONE
    pack: bool = True


@dataclass(frozen=True)
class Provenance:
    """What made a result; stored as custom properties."""

    job: str
    name: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def import_result(
    folder: Path, provenance: Provenance, placement: Placement, scene: bpy.types.Scene
) -> bpy.types.Collection:
    """Import what there is of `mesh.glb`, coarser copies, `splats.ply` and `cameras.json` in `folder`."""
    prepared = prepare(folder, placement.texture, placement.floor)
    return finished(result_steps(prepared, provenance, placement, scene))


def result_steps(
    prepared: Prepared, provenance: Provenance, placement: Placement, scene: bpy.types.Scene
) -> Iterator[None]:
    """The same from decoded files, a slice at a time; what the generator returns is the collection.

    The coarser copies stand hidden in a collection of their own. On an error, or when the generator is
    closed before its end, nothing stays in the file.
    """
    collection = bpy.data.collections.new(provenance.name)
    collection[_UNFINISHED] = mark = secrets.token_hex(8)
    try:
        yield from _fill(collection, prepared, provenance, placement, scene)
        yield
        scene.collection.children.link(collection)
        yield
        bpy.context.view_layer.update()  # a layer that takes in objects while it is walked yields None
        yield
    except BaseException:
        _remove(mark)
        raise
    del collection[_UNFINISHED]
    _select(next((item for item in collection.objects if not item.hide_viewport), None))
    return collection


def _fill(
    collection: bpy.types.Collection,
    prepared: Prepared,
    provenance: Provenance,
    placement: Placement,
    scene: bpy.types.Scene,
) -> Iterator[None]:
    name, made = provenance.name, []
    mesh = splats = None
    if prepared.mesh is not None:
        mesh = yield from mesh_steps(prepared.mesh, name, collection, placement.smooth, prepared.memory)
        made.append(mesh)
        if placement.lods and prepared.lods:
            made += yield from _lods(collection, prepared.lods, name, placement.smooth)
        if placement.decimate:
            made.append(_copy(mesh, "decimated", collection))
            made[-1].modifiers.new("Decimate", "DECIMATE").ratio = placement.decimate
        if placement.quads:
            made.append(_copy(mesh, "quads", collection))
            modifier = made[-1].modifiers.new("Remesh", "REMESH")
            low, high = prepared.mesh.box
            modifier.voxel_size = max(float((high - low).max()) / _QUADS, 1e-4)
            modifier.use_smooth_shade = True
    if prepared.splats is not None:
        splats = yield from importing.object_steps(prepared.splats, f"{name} Gaussians", collection)
        importing.prepare_scene(scene)
        made.append(splats)
        yield
    if placement.cameras and prepared.cameras:
        made.append(import_cameras(prepared.cameras, f"{name} orbit", collection))
    if prepared.cutout is not None:
        made.append(
            reference.add_reference(
                placement.reference, prepared.cutout, prepared.cameras, name, collection, placement.pack
            )
        )
    yield
    made = [item for item in made if item is not None]
    main = mesh or splats
    for item in made:
        if item is not main:
            item.parent = main  # one object to move: the others keep their place relative to it
            if item.type != "MESH" and not gaussians(item):  # those have the same origin
                item.matrix_parent_inverse = Matrix.Translation((0, 0, -prepared.base))
    if main is not None:
        yield from _place(main, prepared.mesh, placement, scene)
    for owner in (collection, *made):
        owner["orrery_job"] = provenance.job
        owner["orrery_seed"] = provenance.seed
        owner["orrery_settings"] = json.dumps(provenance.settings, sort_keys=True)
        owner["orrery_versions"] = json.dumps(provenance.versions, sort_keys=True)
    show(collection, placement.show if mesh is not None and splats is not None else SHOW_BOTH)


def _lods(
    collection: bpy.types.Collection, lods: tuple[GlbMesh, ...], name: str, smooth: bool
) -> Iterator[None]:
    """The coarser copies, hidden: they lie where the mesh lies."""
    below = bpy.data.collections.new(f"{name} LODs")
    collection.children.link(below)
    made = []
    for level, glb in enumerate(lods, start=1):
        item = yield from mesh_steps(glb, f"{name} LOD{level}", below, smooth)
        item.hide_viewport = item.hide_render = True
        made.append(item)
    return made


def _copy(mesh: bpy.types.Object, what: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """A hidden object of the same mesh, for a modifier whose strength stays adjustable."""
    item = bpy.data.objects.new(f"{mesh.name} {what}", mesh.data)
    collection.objects.link(item)
    item.hide_viewport = item.hide_render = True
    item[_COPY] = what
    return item


def _place(
    main: bpy.types.Object, mesh: GlbMesh | None, placement: Placement, scene: bpy.types.Scene
) -> Iterator[None]:
    """Size and place of the object that carries the others."""
    low, high = mesh.box if mesh is not None else (np.zeros(3), np.zeros(3))
    side = float((high - low).max())
    scale = placement.size / side if placement.size and side else 1.0
    main.scale = (scale, scale, scale)
    if placement.at == place.CURSOR:
        main.location = scene.cursor.location
    if placement.at == place.BESIDE and side:
        boxes = yield from place.occupied(scene)
        here = np.array(main.location)
        main.location.x += place.shift_beside(here + scale * low, here + scale * high, boxes)


def _remove(mark: str) -> None:
    """Take an unfinished collection and what is in it away; found by its mark, for an undo in between makes
    every reference useless."""
    collection = next((c for c in bpy.data.collections if c.get(_UNFINISHED) == mark), None)
    if collection is None:
        return
    for item in list(collection.all_objects):
        data = item.data
        bpy.data.objects.remove(item)
        if isinstance(data, bpy.types.Mesh) and not data.users:
            bpy.data.meshes.remove(data)
    for inner in list(collection.children_recursive):
        bpy.data.collections.remove(inner)
    bpy.data.collections.remove(collection)


def gaussians(item: bpy.types.Object) -> bool:
    """Whether this object holds Gaussians."""
    return layout.is_splats(item)


def result_collections(scene: bpy.types.Scene) -> list[bpy.types.Collection]:
    """The collections of imported results in this scene."""
    return [c for c in scene.collection.children_recursive if "orrery_job" in c]


def show(collection: bpy.types.Collection, what: str) -> None:
    """Make the mesh, the Gaussians or both visible, in the viewport and in renders."""
    for item in _switched(collection):
        hidden = what == (SHOW_MESH if gaussians(item) else SHOW_GAUSSIANS)
        item.hide_viewport = item.hide_render = hidden


def shown(collection: bpy.types.Collection) -> str:
    """Which of them are visible, whoever switched them; empty where none is."""
    kinds = {gaussians(item) for item in _switched(collection) if not item.hide_viewport}
    if len(kinds) == 2:
        return SHOW_BOTH
    return {True: SHOW_GAUSSIANS, False: SHOW_MESH}[kinds.pop()] if kinds else ""


def _switched(collection: bpy.types.Collection) -> list[bpy.types.Object]:
    return [o for o in collection.objects if o.type not in ("CAMERA", "EMPTY") and _COPY not in o]


def _select(item: bpy.types.Object | None) -> None:
    layer = bpy.context.view_layer
    if item is None or item.name not in layer.objects:
        return
    for other in list(layer.objects):
        other.select_set(other is item)
    layer.objects.active = item
