"""Gaussian splatting on the CPU: our Numba rasteriser, needs nothing beyond the base install."""

from dataclasses import replace

import numpy as np

from backend.geometry.splat_parameters import prune
from backend.geometry.splat_targets import Target, make_targets
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, ViewCorrections, Views
from backend.stages.splats.camera_refine import Corrections, settle
from backend.stages.splats.fit import fit
from backend.stages.splats.init import Start, start_on_hull
from backend.stages.splats.perceptual import load_term
from backend.stages.splats.targets import half_targets

_ROUGH = 0.5
"""Steps of the first fit that refines cameras, next to the fit itself."""


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
            corrections = _first_corrections(views, start, half or targets, options, context)
            context.step(0, options.steps, "Carving the hull again, with corrected cameras")
            agreed = ViewCorrections(corrections.poses, corrections.gains, corrections.offsets).applied(views)
            start = start_on_hull(agreed, options, context)
        fitted = prune(
            fit(start, targets, options, context, perceptual=term, half=half, corrections=corrections)
        )
        learned = None
        if corrections is not None:
            fitted, learned = settle(corrections, fitted)
            context.note(
                camera_turn_degrees=round(float(np.median(corrections.degrees)), 3),
                camera_shift=round(float(np.median(corrections.shifts)), 4),
            )
        return Splats(**vars(fitted), antialiased=options.antialiased, corrections=learned)


def _first_corrections(
    views: Views, start: Start, targets: list[Target], options: SplatsOptions, context: StageContext
) -> Corrections:
    """Corrections from a first, rough fit: a hull carved with wrong cameras lacks what they cut away."""
    positions = start.gaussians.positions
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    corrections = Corrections(views.cameras, centre, start.extent)
    rough = replace(options, steps=round(_ROUGH * options.steps), perceptual=0.0, densify="none", hold_out=0)
    fit(start, targets, rough, context, corrections=corrections)
    return corrections
