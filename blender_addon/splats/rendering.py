"""*Render with Gaussians*: Blender renders the scene, the add-on draws the Gaussians into it.

Blender's own picture comes as it is displayed (its view transform applied), with the depth of each pixel.
The Gaussians are drawn as in the viewport, tested against that depth, and laid over the picture in sRGB
encoding, which is how they were trained. Shadows and reflections between the two there are none.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
import gpu
import numpy as np

from shared_protocol.conventions import linear_from_srgb
from shared_protocol.errors import EngineUnavailable, InvalidInput, OrreryError, Unsupported

from . import layout, painter
from .atlas import Atlas, build
from .exr import read_channel
from .order import far_to_near
from .painter import Instance
from .view import View
from .viewport import instance_of, of_collection

IMAGE = "Gaussians Render"
STILLS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "TARGA", "OPEN_EXR")
_SEEN_BY_BLENDER = {
    "MESH", "CURVE", "SURFACE", "META", "FONT", "VOLUME", "CURVES", "POINTCLOUD", "GPENCIL", "GREASEPENCIL",
}  # fmt: skip


@dataclass(frozen=True)
class Backdrop:
    """What Blender rendered: straight sRGB-encoded `color` (H, W, 4) and `away` (H, W), metres along the
    line of sight of the camera; rows from the top."""

    color: np.ndarray
    away: np.ndarray


def rendered_objects(view_layer: bpy.types.ViewLayer) -> list[bpy.types.Object]:
    """Objects that a render of this layer shows."""
    found: dict[str, bpy.types.Object] = {}

    def walk(layer: bpy.types.LayerCollection) -> None:
        if layer.exclude or layer.collection.hide_render:
            return
        for item in layer.collection.objects:
            if not item.hide_render:
                found[item.name] = item
        for child in layer.children:
            walk(child)

    walk(view_layer.layer_collection)
    return list(found.values())


def gaussians_of(items: list[bpy.types.Object]) -> list[Instance]:
    """What to draw of these objects, now."""
    found = []
    for item in items:
        matrix = np.array(item.matrix_world)
        if layout.is_splats(item) and item.type == "MESH":
            found.append(instance_of(item, matrix))
        elif item.instance_type == "COLLECTION" and item.instance_collection:
            found += [i for _, i in of_collection(item.name, item.instance_collection, matrix, render=True)]
    return found


def camera_view(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> View:
    """The scene's camera, at the size of the render. Raises InvalidInput, Unsupported."""
    camera = scene.camera
    if camera is None:
        raise InvalidInput("the scene has no camera", "an active camera", "Add one: Add > Camera.")
    if camera.data.type not in ("PERSP", "ORTHO"):
        raise Unsupported(
            f"the camera is of type {camera.data.type}",
            "perspective or orthographic",
            "Render with Cycles itself: its Gaussians take every camera.",
        )
    width, height = size(scene)
    render = scene.render
    projection = camera.calc_matrix_camera(
        depsgraph, x=width, y=height, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
    )
    return View.of(camera.matrix_world.normalized().inverted(), projection, width, height)


def size(scene: bpy.types.Scene) -> tuple[int, int]:
    """Pixels of the render."""
    render = scene.render
    share = render.resolution_percentage / 100
    return max(1, int(render.resolution_x * share)), max(1, int(render.resolution_y * share))


def depth_texture(view: View, away: np.ndarray) -> gpu.types.GPUTexture:
    """(H, W) metres along the line of sight -> window depths, as `painter.paint` wants them."""
    p = view.projection
    z = -np.minimum(away.astype(np.float64), 1e9)[::-1]
    depth = 0.5 + 0.5 * (p[2, 2] * z + p[2, 3]) / (p[3, 2] * z + p[3, 3])
    flat = np.ascontiguousarray(depth, np.float32).ravel()
    return gpu.types.GPUTexture(
        (view.width, view.height), format="R32F", data=gpu.types.Buffer("FLOAT", len(flat), flat)
    )


def draw(view: View, instances: list[Instance], backdrop: Backdrop | None, atlas: Atlas) -> np.ndarray:
    """(H, W, 4) straight, sRGB-encoded: the Gaussians over the backdrop."""
    order = far_to_near(view.view_from_world, painter.placed(atlas, instances))
    target = gpu.types.GPUOffScreen(view.width, view.height, format="RGBA16F")
    texture = painter.order_texture(order)
    depth = depth_texture(view, backdrop.away) if backdrop is not None else None
    painter.paint(target, view, atlas, instances, texture, len(order), depth)
    drawn = np.clip(painter.read(target), 0, 1)
    target.free()
    if backdrop is not None:
        behind = backdrop.color.copy()
        behind[..., :3] *= behind[..., 3:]
        drawn = drawn + (1 - drawn[..., 3:]) * behind
    drawn[..., :3] /= np.maximum(drawn[..., 3:], 1e-6)
    return np.clip(drawn, 0, 1)


def needs_blender(scene: bpy.types.Scene, items: list[bpy.types.Object]) -> bool:
    """Whether there is anything but Gaussians to be seen."""
    if not scene.render.film_transparent:
        return True
    return any(
        (item.type in _SEEN_BY_BLENDER and not layout.is_splats(item))
        or (item.instance_type == "COLLECTION" and item.instance_collection)
        for item in items
    )


@contextmanager
def without_gaussians(scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer) -> Iterator[None]:
    """While Blender renders: its nodes' Gaussians hidden, the depth pass on, no file written."""
    hidden = [item for item in bpy.data.objects if layout.is_splats(item) and not item.hide_render]
    depth = view_layer.use_pass_z
    view_layer.use_pass_z = True
    for item in hidden:
        item.hide_render = True
    try:
        yield
    finally:
        view_layer.use_pass_z = depth
        for item in hidden:
            item.hide_render = False


def backdrop_of(scene: bpy.types.Scene) -> Backdrop:
    """The finished Render Result. Raises InvalidInput when it has no depth."""
    result = bpy.data.images["Render Result"]
    with tempfile.TemporaryDirectory(prefix="orrery-render-") as folder:
        depth, color = Path(folder) / "depth.exr", Path(folder) / "color.png"
        with _format(scene, "OPEN_EXR_MULTILAYER", color_depth="32", exr_codec="NONE"):
            result.save_render(str(depth), scene=scene)
        with _format(scene, "PNG", color_depth="8", color_mode="RGBA", compression=0):
            result.save_render(str(color), scene=scene)
        away = read_channel(depth.read_bytes(), ".Depth.Z")
        image = bpy.data.images.load(str(color))
        try:
            pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
            image.pixels.foreach_get(pixels)
            pixels = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
        finally:
            bpy.data.images.remove(image)
    if pixels.shape[:2] != away.shape:
        raise InvalidInput(
            "picture and depth of the render differ in size", "one size", "Switch Render Region off."
        )
    return Backdrop(pixels, away)


@contextmanager
def _format(scene: bpy.types.Scene, kind: str, **wanted: object) -> Iterator[None]:
    """The scene's output format for a moment."""
    settings = scene.render.image_settings
    names = ("media_type", "file_format", "color_mode", *wanted)
    before = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    try:
        if hasattr(settings, "media_type"):
            settings.media_type = "MULTI_LAYER_IMAGE" if kind == "OPEN_EXR_MULTILAYER" else "IMAGE"
        settings.file_format = kind
        for name, value in wanted.items():
            setattr(settings, name, value)
        yield
    finally:
        for name, value in before.items():
            # Depths and colour modes of one format are not all known to another.
            with suppress(TypeError):
                setattr(settings, name, value)


def keep_picture(picture: np.ndarray, scene: bpy.types.Scene, path: Path | None) -> bpy.types.Image:
    """Put (H, W, 4) into the image `IMAGE`, and into a file of the scene's format. Raises InvalidInput."""
    height, width = picture.shape[:2]
    kind = scene.render.image_settings.file_format
    if path is not None and kind not in STILLS:
        raise InvalidInput(
            f"the output format is {kind}",
            "an image format: " + ", ".join(STILLS),
            "Choose PNG under Output; make a film of the frames afterwards.",
        )
    linear = path is not None and kind == "OPEN_EXR"
    old = bpy.data.images.get(IMAGE)
    if old is not None and (tuple(old.size) != (width, height) or old.is_float != linear):
        bpy.data.images.remove(old)
        old = None
    image = old or bpy.data.images.new(IMAGE, width, height, alpha=True, float_buffer=linear)
    values = picture.astype(np.float32)
    if linear:
        values = np.concatenate(
            [linear_from_srgb(values[..., :3]) * values[..., 3:], values[..., 3:]], axis=2
        )
    image.pixels.foreach_set(np.ascontiguousarray(values[::-1]).ravel())
    image.update()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.file_format = kind
        image.filepath_raw = str(path)
        image.save()
    return image


class ORRERY_OT_render_gaussians(bpy.types.Operator):
    """Render the scene with its Gaussians as the viewport draws them"""

    bl_idname = "orrery.render_gaussians"
    bl_label = "Render with Gaussians"

    animation: bpy.props.BoolProperty(
        name="Animation", description="All frames of the scene, into its output folder", options={"SKIP_SAVE"}
    )
    write_still: bpy.props.BoolProperty(
        name="Write Image", description="Save a still to the output path", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.scene.camera is None:
            cls.poll_message_set("The scene has no camera")
            return False
        if not any(layout.is_splats(item) and item.type == "MESH" for item in bpy.data.objects):
            cls.poll_message_set("The file has no Gaussians but those that Blender renders itself")
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """With a window: frame by frame, each a render job that Esc ends."""
        try:
            self._begin(context)
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._rendering = self._finished = self._cancelled = False
        self._hiding, self._done = None, 0
        bpy.app.handlers.render_complete.append(self._on_complete)
        bpy.app.handlers.render_cancel.append(self._on_cancel)
        window = context.window_manager
        self._timer = window.event_timer_add(0.05, window=context.window)
        window.progress_begin(0, len(self._frames))
        window.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Without interaction: all at once."""
        try:
            self._begin(context)
            for frame in self._frames:
                items = self._go_to(context, frame)
                backdrop = None
                if needs_blender(context.scene, items):
                    with without_gaussians(context.scene, context.view_layer):
                        bpy.ops.render.render()
                    backdrop = backdrop_of(context.scene)
                self._finish_frame(context, frame, items, backdrop)
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        finally:
            self._restore(context)
        return {"FINISHED"}

    def _begin(self, context: bpy.types.Context) -> None:
        scene = context.scene
        self._atlas: tuple[tuple, Atlas] | None = None
        self._before = scene.frame_current
        self._frames = [self._before]
        if self.animation:
            self._frames = list(range(scene.frame_start, scene.frame_end + 1, scene.frame_step))
        if bpy.app.background:
            if not hasattr(gpu, "init"):
                raise EngineUnavailable(
                    "this Blender cannot draw without a window",
                    "Blender 5.2 or later, or a window",
                    "Render with Cycles, or start Blender with its window.",
                )
            gpu.init()
        if scene.render.use_border:
            raise InvalidInput(
                "Render Region is switched on", "the whole frame", "Switch it off under Output."
            )
        camera_view(scene, context.evaluated_depsgraph_get())

    def _go_to(self, context: bpy.types.Context, frame: int) -> list[bpy.types.Object]:
        if frame != context.scene.frame_current:
            context.scene.frame_set(frame)
        return rendered_objects(context.view_layer)

    def _finish_frame(
        self,
        context: bpy.types.Context,
        frame: int,
        items: list[bpy.types.Object],
        backdrop: Backdrop | None,
    ) -> None:
        scene = context.scene
        instances = gaussians_of(items)
        blocks = tuple(sorted({instance.block for instance in instances}))
        if self._atlas is None or self._atlas[0] != blocks:
            *_, atlas = build([(name, bpy.data.meshes[name]) for name in blocks])
            if atlas.left_out:
                raise InvalidInput(
                    f"{', '.join(atlas.left_out)} do not fit into the GPU's textures",
                    "fewer Gaussians",
                    "Hide some from renders, or crop them.",
                )
            self._atlas = (blocks, atlas)
        view = camera_view(scene, context.evaluated_depsgraph_get())
        picture = draw(view, instances, backdrop, self._atlas[1])
        path = None
        if self.animation:
            path = Path(bpy.path.abspath(scene.render.frame_path(frame=frame)))
        elif self.write_still:
            path = Path(bpy.path.abspath(scene.render.filepath))
            if path.suffix != scene.render.file_extension and scene.render.use_file_extension:
                path = path.with_name(path.name + scene.render.file_extension)
        keep_picture(picture, scene, path)

    def _restore(self, context: bpy.types.Context) -> None:
        if context.scene.frame_current != self._before:
            context.scene.frame_set(self._before)

    def _on_complete(self, *_: object) -> None:
        self._finished = True

    def _on_cancel(self, *_: object) -> None:
        self._cancelled = True

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC" and not self._rendering:
            self._cancelled = True
        if self._cancelled:
            return self._end(context, "The render was cancelled", done=False)
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        try:
            return self._go_on(context)
        except OrreryError as error:
            self.report({"ERROR"}, str(error))
            return self._end(context, "", done=False)
        except BaseException:
            self._end(context, "", done=False)
            raise

    def _go_on(self, context: bpy.types.Context) -> set[str]:
        if self._rendering and not self._finished:
            return {"PASS_THROUGH"}
        if self._rendering:
            self._show_gaussians()
            self._rendering = self._finished = False
            self._finish_frame(context, self._frames[0], self._items, backdrop_of(context.scene))
            return self._next(context)
        total = self._done + len(self._frames)
        context.workspace.status_text_set(f"Frame {self._done + 1} of {total}; Esc cancels")
        self._items = self._go_to(context, self._frames[0])
        if not needs_blender(context.scene, self._items):
            self._finish_frame(context, self._frames[0], self._items, None)
            return self._next(context)
        self._hiding = without_gaussians(context.scene, context.view_layer)
        self._hiding.__enter__()
        self._rendering = True
        bpy.ops.render.render("INVOKE_DEFAULT")
        return {"RUNNING_MODAL"}

    def _next(self, context: bpy.types.Context) -> set[str]:
        del self._frames[0]
        self._done += 1
        context.window_manager.progress_update(self._done)
        if not self._frames:
            return self._end(context, f"Rendered into the image '{IMAGE}'", done=True)
        return {"RUNNING_MODAL"}

    def _show_gaussians(self) -> None:
        if self._hiding is not None:
            self._hiding.__exit__(None, None, None)
            self._hiding = None

    def _end(self, context: bpy.types.Context, words: str, *, done: bool) -> set[str]:
        self._show_gaussians()
        bpy.app.handlers.render_complete.remove(self._on_complete)
        bpy.app.handlers.render_cancel.remove(self._on_cancel)
        window = context.window_manager
        window.event_timer_remove(self._timer)
        window.progress_end()
        context.workspace.status_text_set(None)
        self._restore(context)
        if words:
            self.report({"INFO"}, words)
        return {"FINISHED"} if done else {"CANCELLED"}


CLASSES = (ORRERY_OT_render_gaussians,)
