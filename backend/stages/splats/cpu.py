"""Gaussian splatting on the CPU: our Numba rasteriser, needs nothing beyond the base install."""

import numpy as np

from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, ViewCorrections, Views
from backend.stages.splats.camera_refine import Corrections
from backend.stages.splats.fit import fit
from backend.stages.splats.init import start_on_hull
from backend.stages.splats.parameters import prune
from backend.stages.splats.perceptual import load_term
from backend.stages.splats.targets import half_targets, make_targets


class CpuSplats:
    """Carves, colours, fits, prunes."""

    version = "2"
    perceptual = True
    """Has the perceptual term."""

    def fit(self, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
        """views -> Gaussians; see `run.py`."""
        term = load_term(options, context)
        context.note(perceptual_weight=options.perceptual or 0.0)
        context.step(0, options.steps, "Carving the hull for the Gaussians")
        start = start_on_hull(views, options, context)
        targets = make_targets(views, options.size, context.check)
        half = half_targets(views, options, context.check)
        corrections = None
        if options.refine_cameras:
            positions = start.gaussians.positions
            centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
            corrections = Corrections(views.cameras, centre, start.extent)
        fitted = prune(
            fit(start, targets, options, context, perceptual=term, half=half, corrections=corrections)
        )
        return Splats(
            **vars(fitted), antialiased=options.antialiased, corrections=_learned(corrections, context)
        )


def _learned(corrections: Corrections | None, context: StageContext) -> ViewCorrections | None:
    if corrections is None:
        return None
    context.note(
        camera_turn_degrees=round(float(np.median(corrections.degrees[1:])), 3),
        camera_shift=round(float(np.median(corrections.shifts[1:])), 4),
    )
    return ViewCorrections(corrections.poses, corrections.gains, corrections.offsets)
