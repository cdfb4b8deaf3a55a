"""Node trees that were made once by this Blender, for other files and later sessions.

Blender looks through a whole tree at each node and link: made in code, the trees of Gaussians of degree 3
take five times as long as read back from a .blend file (54 and 9 ms). So what was made is written into the
extension's user folder, under the version of Blender and a digest of the code that made it, and appended from
there. Outside of an installed extension it is a folder of this session. Inside one file the trees are there
already.
"""

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import bpy

from .node_kit import current

_MAKERS = ("node_kit", "nodes", "billboards", "camera_nodes", "harmonics", "mixing")
"""Modules whose code makes the trees."""


def keep(tree: bpy.types.NodeTree) -> None:
    """Write `tree`, and what it uses, for `taken`."""
    path = _path(tree.name)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        bpy.data.libraries.write(str(unfinished), {tree})
        unfinished.replace(path)
        for other in path.parent.glob(f"{_head(tree.name)} *.blend"):
            if other != path:
                other.unlink()  # made by other code
    except (OSError, RuntimeError):
        unfinished.unlink(missing_ok=True)  # no room: the next file makes its own


def taken(name: str) -> bpy.types.NodeTree | None:
    """Append the tree of this name that `keep` wrote; None where there is none."""
    path = _path(name)
    if not path.exists():
        return None
    there = {item.as_pointer() for item in (*bpy.data.materials, *bpy.data.libraries)}
    tree = None
    try:
        with bpy.data.libraries.load(str(path)) as (found, wanted):
            wanted.node_groups = [known for known in found.node_groups if known == name]
        tree = next(iter(wanted.node_groups), None)
    except (OSError, RuntimeError):
        pass
    for library in list(bpy.data.libraries):
        if library.as_pointer() not in there:
            bpy.data.libraries.remove(library)
    if tree is None:
        path.unlink(missing_ok=True)  # damaged: made anew
        return None
    # The file may have these materials already, from a tree of another degree.
    for material in [item for item in bpy.data.materials if item.as_pointer() not in there]:
        own = current(bpy.data.materials, material.name.rpartition(".")[0], material["orrery_build"])
        if own is not None and own.as_pointer() in there:
            material.user_remap(own)
            bpy.data.materials.remove(material)
    return tree


def _path(name: str) -> Path:
    return _folder() / f"{_head(name)} {_digest()}.blend"


def _head(name: str) -> str:
    return f"{name} {bpy.app.version_string}"


@cache
def _digest() -> str:
    code = hashlib.sha256()
    for name in _MAKERS:
        code.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return code.hexdigest()[:16]


def _folder() -> Path:
    try:
        return Path(bpy.utils.extension_path_user(__package__.rpartition(".")[0], path="nodes", create=True))
    except (ValueError, OSError):  # not installed as an extension, or nothing can be written there
        return Path(_of_session().name)


@cache
def _of_session() -> tempfile.TemporaryDirectory:
    """Removed when Python ends. Blender's own changes when its settings are loaded again."""
    return tempfile.TemporaryDirectory(prefix="orrery-nodes-")


def forget() -> None:
    """Remove what this session kept for itself."""
    if _of_session.cache_info().currsize:
        _of_session().cleanup()
        _of_session.cache_clear()
