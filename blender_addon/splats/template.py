"""Node trees that were made once in this session, for the other files that are opened in it.

Blender looks through a whole tree at each node and link: made in code, the trees of Gaussians of degree 3
take four times as long as read back from a .blend file (41 and 10 ms). So what was made is written into a
temporary folder of this session, and appended from there. Inside one file the trees are there already.
"""

import tempfile
from functools import cache
from pathlib import Path

import bpy

from .node_kit import current


def keep(tree: bpy.types.NodeTree, build: int) -> None:
    """Write `tree`, and what it uses, for `taken`."""
    try:
        bpy.data.libraries.write(str(_path(tree.name, build)), {tree})
    except (OSError, RuntimeError):
        return  # no room: the next file makes its own


def taken(name: str, build: int) -> bpy.types.NodeTree | None:
    """Append the tree that `keep` wrote in this session; None where there is none."""
    path = _path(name, build)
    if not path.exists():
        return None
    there = {item.as_pointer() for item in (*bpy.data.materials, *bpy.data.libraries)}
    try:
        with bpy.data.libraries.load(str(path)) as (_, wanted):
            wanted.node_groups = [name]
    except (OSError, RuntimeError):
        path.unlink(missing_ok=True)  # damaged: made anew
        return None
    tree = wanted.node_groups[0]
    for library in list(bpy.data.libraries):
        if library.as_pointer() not in there:
            bpy.data.libraries.remove(library)
    # The file may have these materials already, from a tree of another degree.
    for material in [item for item in bpy.data.materials if item.as_pointer() not in there]:
        own = current(bpy.data.materials, material.name.rpartition(".")[0], material["orrery_build"])
        if own is not None and own.as_pointer() in there:
            material.user_remap(own)
            bpy.data.materials.remove(material)
    return tree


def _path(name: str, build: int) -> Path:
    return Path(_folder().name) / f"{name} {build}.blend"


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """Removed when Python ends. Blender's own changes when its settings are loaded again."""
    return tempfile.TemporaryDirectory(prefix="orrery-nodes-")


def forget() -> None:
    """Remove what was kept: the next file makes its own."""
    if _folder.cache_info().currsize:
        _folder().cleanup()
        _folder.cache_clear()
