"""The neural surface engine: NeuS with a hash grid, for CUDA; at small settings on a CPU too."""

from collections.abc import Iterator
from contextlib import contextmanager

from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface.finish import reduced
from backend.stages.surface.neus.between import with_views_between
from backend.stages.surface.neus.settings import ANALYTIC, FINITE_DIFFERENCE, Settings, settle
from backend.stages.surface.parts import drop_floaters
from shared_protocol.errors import OutOfMemory, StageFailed

_CPU_SECONDS_PER_SAMPLE = {ANALYTIC: 5.5e-6, FINITE_DIFFERENCE: 1.3e-5}
"""Measured at the small settings, by the kind of gradient."""


class NeusSurface:
    """Signed distance and colour fields trained on the views by volume rendering (NeuS, V3D 3.3)."""

    version = "2"

    def reconstruct(
        self, views: Views, splats: Splats, options: SurfaceOptions, context: StageContext
    ) -> Mesh:
        """A closed mesh of at most `options.faces` triangles."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = settle(options, device == "cuda")
        if device == "cpu":
            minutes = settings.steps * settings.samples * _CPU_SECONDS_PER_SAMPLE[settings.gradient] / 60
            context.warn(
                "The neural surface engine is made for CUDA, and torch finds no CUDA device: on this CPU it "
                f"takes about {max(minutes, 1):.0f} CPU minutes. The engine 'hull' takes seconds."
            )
        try:
            views = with_views_between(views, splats, options.neus_views, context)
            with _one_torch_thread():
                return self._reconstruct(views, options, settings, device, context)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the GPU ran out of memory with up to {settings.rays_most} rays a step",
                remedy="Lower surface.neus_rays or surface.neus_cells, or close other programs on the GPU.",
            ) from error

    def _reconstruct(
        self, views: Views, options: SurfaceOptions, settings: Settings, device: str, context: StageContext
    ) -> Mesh:
        from backend.stages.surface.neus.extract import field_to_mesh, mean_slope
        from backend.stages.surface.neus.scene import make_scene
        from backend.stages.surface.neus.train import Model, train

        context.step(0, settings.steps, "Measuring silhouettes")
        scene = make_scene(views, settings.occupancy, device, context)
        model = Model.of(settings, len(views), device, context.seed, options.neus_refine_cameras)
        train(model, scene, settings, context.seed, context)
        vertices, faces = field_to_mesh(model.geometry, scene, settings.cells, context)
        if not len(faces):
            raise StageFailed(
                "training ended with a field that has no surface",
                "views that agree on one object",
                "Use more steps (--surface.neus_steps), or the engine 'hull'.",
            )
        context.note(neus_mean_slope=round(mean_slope(model.geometry, scene, vertices), 4))
        if model.motions is not None:
            turn, shift = model.motions.detach().cpu().split(3, dim=1)
            context.note(
                neus_camera_degrees=round(float(turn.norm(dim=1).max().rad2deg()), 3),
                neus_camera_shift=round(float(shift.norm(dim=1).max()) * scene.scale, 5),
            )
        alpha = views.rgba[..., 3]
        vertices, faces = drop_floaters(vertices, faces, alpha, views.cameras)
        return reduced(vertices, faces, options, context.check)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Torch's operations on the calling thread; the hash grid has threads of its own.

    Small batches make a step some hundred short operations. OpenMP's threads spin between them, and where
    other programs want the cores, at each one's end too (measured with two threads on two busy cores: five
    times the CPU time and more than twice the wall time of one).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
