"""*Render with Gaussians*: Blender renders the scene, the add-on draws the Gaussians into it.

Blender's own picture comes as it is displayed (its view transform applied), with the depth of each pixel
(`backdrop`). The Gaussians are drawn as in the viewport, tested against that depth, and laid over the picture
in sRGB encoding, which is how they were trained (`composite`). Shadows and reflections between the two there
are none.
"""

from pathlib import Path

import bpy
import gpu

from shared_protocol.errors import EngineUnavailable, InvalidInput, OrreryError

from . import layout
from .atlas import Atlas, build
from .backdrop import Backdrop, backdrop_of, without_gaussians
from .composite import IMAGE, draw, keep_picture
from .render_scene import camera_view, gaussians_of, needs_blender, rendered_objects


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
