"""Gaussians of meshes in 3D viewports: what the draw handler does for each view.

Blender 5.3 draws its own type; older files hold meshes there too until they are upgraded.

A handler draws after the scene, before the interface: sorted Gaussians into a target of its own, in sRGB
encoding, tested against the depth of the scene's meshes; then that picture is laid over the view. Sorting
runs in a thread (`order.Sorter`), textures are made in steps within a budget: a view shows what is ready
and asks to be drawn again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import bpy
import gpu
import numpy as np

from . import layout, nodes, painter, shaders
from .atlas import Atlas, build
from .order import Sorter, far_to_near
from .painter import Instance, PreparedOrder
from .view import View

BUDGET = 0.004
"""Seconds of work on textures a drawing."""
AT_ONCE = 1 << 15
"""So few Gaussians are sorted while the view is drawn (2 ms): their order is never late."""
_DEEPEST = 8
"""Collections inside instanced collections are followed so far."""
_FORGOTTEN = 5.0
"""Seconds after which what was made for a view that is no longer drawn is let go."""


@dataclass
class _Seen:
    """What was made for one view."""

    sorter: Sorter = field(default_factory=lambda: Sorter(PreparedOrder))
    target: gpu.types.GPUOffScreen | None = None
    order: gpu.types.GPUTexture | None = None
    count: int = 0
    names: tuple = ()
    key: object = None
    used: float = 0.0


class Viewports:
    """The state behind the draw handler."""

    def __init__(self) -> None:
        self.atlas = Atlas()
        self._sources: tuple = ()
        self._stamps: dict[str, int] = {}
        self._stamp = 0
        self._building: Iterator[Atlas | None] | None = None
        self._building_sources: tuple = ()
        self._built: Atlas | None = None  # what it made so far
        self._seen: dict[int, _Seen] = {}
        self.longest = 0.0  # seconds of one drawing, for measurements

    @property
    def ready(self) -> bool:
        """Whether nothing is being made for the views."""
        return self._building is None and not any(seen.sorter.busy for seen in self._seen.values())

    def changed(self, data_name: str | None = None) -> None:
        """The Gaussians of this data-block (None: any) may have changed."""
        if data_name is None:
            self._stamp += 1
        else:
            self._stamps[data_name] = self._stamps.get(data_name, 0) + 1

    def draw(self) -> None:
        """Called by Blender for each 3D view."""
        began, until = time.perf_counter(), time.thread_time() + 2 * BUDGET
        context = bpy.context
        items = visible_items(context)
        if not items:
            return
        matrix = context.region_data
        left, bottom, width, height = gpu.state.viewport_get()
        view = View.of(matrix.view_matrix, matrix.window_matrix, width, height)
        self._prepare(items)
        if not self.atlas.drawable:
            return
        seen = self._seen.setdefault(context.region.as_pointer(), _Seen())
        seen.used = began
        self._sort(seen, view, items, until)
        if seen.order is None:
            return
        by_name = dict(items)
        instances = [by_name.get(name) for name in seen.names]
        buffer = gpu.state.active_framebuffer_get()
        depth = _texture_of_depth(buffer, left, bottom, width, height)
        if seen.target is None or (seen.target.width, seen.target.height) != (width, height):
            seen.target = gpu.types.GPUOffScreen(width, height, format="RGBA16F")
        painter.paint(seen.target, view, self.atlas, instances, seen.order, seen.count, depth)
        gpu.state.viewport_set(left, bottom, width, height)
        painter.lay_over(seen.target.texture_color)
        self._forget_old(began)
        self.longest = max(self.longest, time.perf_counter() - began)

    def _prepare(self, items: list[tuple[str, Instance]]) -> None:
        """Bring the atlas up to date with the data-blocks of `items`, within the budget."""
        names = sorted({instance.block for _, instance in items})
        sources = (self._stamp, *((name, self._stamps.get(name, 0)) for name in names))
        if sources == self._sources:
            self._building = None
            return
        if self._building is None or self._building_sources != sources:
            blocks = [(name, _data(name)) for name in names]
            self._building = build([(name, data) for name, data in blocks if data is not None])
            self._building_sources, self._built = sources, None
        end = time.perf_counter() + BUDGET
        try:
            while time.perf_counter() < end:
                step = next(self._building)
                if step is None:
                    break  # the next step may be long
                self._built = step
        except StopIteration:
            self._building, self._sources = None, sources
        # The first picture may come without all harmonics; later ones wait for the whole atlas.
        ready = self._building is None or not self.atlas.drawable
        if ready and self._built is not None and self._built is not self.atlas:
            self.atlas = self._built
            for seen in self._seen.values():
                seen.key = None
        if self._building is not None:
            redraw_soon()

    def _sort(self, seen: _Seen, view: View, items: list[tuple[str, Instance]], until: float) -> None:
        instances = [instance for _, instance in items]
        names = tuple(name for name, _ in items)
        rows = [view.view_from_world[2].tobytes(), *(i.world_from_object.tobytes() for i in instances)]
        key = (names, id(self.atlas), len(self.atlas.blocks), b"".join(rows))
        if key != seen.key:
            placed = painter.placed(self.atlas, instances)
            if sum(len(item.positions) for item in placed) <= AT_ONCE:
                self._take(seen, key, PreparedOrder(far_to_near(view.view_from_world, placed)))
            else:
                seen.sorter.request(key, view.view_from_world, placed)
        # What is new comes into the picture in the next turn when this one was long.
        if time.thread_time() < until and (done := seen.sorter.take()) is not None:
            self._take(seen, *done)
        if seen.sorter.busy:
            redraw_soon()

    def _take(self, seen: _Seen, key: tuple, order: PreparedOrder) -> None:
        if key[1] != id(self.atlas):
            return  # rows of an atlas that is gone
        seen.order, seen.count, seen.names, seen.key = order.texture(), order.count, key[0], key

    def _forget_old(self, now: float) -> None:
        for pointer, seen in list(self._seen.items()):
            if now - seen.used > _FORGOTTEN:
                del self._seen[pointer]

    def clear(self) -> None:
        """Let go of everything on the GPU."""
        self.__init__()


def _texture_of_depth(
    buffer: gpu.types.GPUFrameBuffer, left: int, bottom: int, width: int, height: int
) -> gpu.types.GPUTexture:
    """Window depths of the scene as a texture. The copy goes through memory: Blender hands the depth
    texture of a viewport to nobody."""
    depth = buffer.read_depth(left, bottom, width, height)
    depth.dimensions = width * height
    return gpu.types.GPUTexture((width, height), format="R32F", data=depth)


def _data(name: str) -> layout.Data | None:
    return bpy.data.meshes.get(name)


def drawn(item: bpy.types.Object) -> bool:
    """Whether this object's Gaussians are for us to draw."""
    return layout.is_splats(item) and item.type == "MESH" and nodes.display(item) == nodes.DRAWN


def visible_items(context: bpy.types.Context) -> list[tuple[str, Instance]]:
    """(a name that lasts, what to draw) of all objects that this view shows, instances of collections
    included."""
    space = context.space_data
    found = []
    for item in context.view_layer.objects:
        if item is None or not item.visible_get(viewport=space):
            continue
        if drawn(item):
            found.append((item.name, instance_of(item, np.array(item.matrix_world))))
        elif item.instance_type == "COLLECTION" and item.instance_collection:
            found += of_collection(item.name, item.instance_collection, np.array(item.matrix_world))
    return found


def of_collection(
    name: str, collection: bpy.types.Collection, matrix: np.ndarray, depth: int = 0, *, render: bool = False
) -> list[tuple[str, Instance]]:
    """The same of a collection that is shown at `matrix` (4, 4), in a view or in a render."""
    matrix = matrix.copy()
    matrix[:3, 3] -= matrix[:3, :3] @ np.array(collection.instance_offset)
    found = []
    for item in collection.all_objects:
        below = matrix @ np.array(item.matrix_world)
        if item.hide_render if render else item.hide_viewport:
            continue
        if drawn(item) or (render and layout.is_splats(item) and item.type == "MESH"):
            found.append((f"{name}/{item.name}", instance_of(item, below)))
        elif item.instance_type == "COLLECTION" and item.instance_collection and depth < _DEEPEST:
            inner = f"{name}/{item.name}"
            found += of_collection(inner, item.instance_collection, below, depth + 1, render=render)
    return found


def instance_of(item: bpy.types.Object, matrix: np.ndarray) -> Instance:
    """How this object is drawn, at `matrix` (4, 4)."""
    return Instance(item.data.name, matrix, layout.antialiased(item.data))


_state: Viewports | None = None
_handle: object = None


def state() -> Viewports | None:
    """What is behind the handler; None where it is not registered."""
    return _state


def redraw_soon() -> None:
    """Draw all 3D views again after this drawing."""
    if not bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.register(_redraw, first_interval=0.005)


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def _draw() -> None:
    if _state is not None:
        _state.draw()


@bpy.app.handlers.persistent
def _after_change(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    for update in depsgraph.updates:
        # Objects are updated with every move of the camera their nodes look at; meshes when they change.
        if isinstance(update.id, bpy.types.Mesh) and _state is not None:
            _state.changed(update.id.name)


@bpy.app.handlers.persistent
def _after_jump(*_: object) -> None:
    """Undo, redo and loading exchange every data-block."""
    if _state is not None:
        _state.changed()


def register() -> None:
    """Start drawing; in the background there is nothing to draw to."""
    global _state, _handle
    if bpy.app.background:
        return
    _state = Viewports()
    _handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")
    bpy.app.handlers.depsgraph_update_post.append(_after_change)
    for jump in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post):
        jump.append(_after_jump)


def unregister() -> None:
    """Stop drawing and let go of everything."""
    global _state, _handle
    if _state is None:
        return
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    bpy.app.handlers.depsgraph_update_post.remove(_after_change)
    for jump in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post):
        jump.remove(_after_jump)
    if bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.unregister(_redraw)
    _state.clear()
    _state = _handle = None
    shaders.forget()
