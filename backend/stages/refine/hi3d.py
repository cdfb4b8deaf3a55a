"""Hi3D's second stage as the refine engine: the orbit at 1024 pixels, guided by its depth."""

import cv2
import numpy as np

from backend.geometry.images import resize_rgba
from backend.pipeline.options import RefineOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from backend.weights import store
from shared_protocol.errors import InvalidInput

MULTIPLE, LEAST = 64, 128
"""Pixels: three halvings of the latents; and what leaves the depth net a picture."""


class Hi3DRefine:
    """Depth-conditioned video to video (Hi3D, chapter 3.3); view 0 is given as the user's own picture."""

    @property
    def version(self) -> str:
        """With a mark of the weights: other files make other results."""
        return f"1 {store.mark('hi3d')}"

    def refine(self, cutout: Picture, orbit: Views, options: RefineOptions, context: StageContext) -> Views:
        """See run.py."""
        import torch

        from backend.models import engine, orbits

        if options.size % MULTIPLE or options.size < LEAST:
            raise InvalidInput(
                f"refine.size is {options.size}", f"a multiple of {MULTIPLE}, at least {LEAST}, here"
            )
        model = engine.opened("hi3d", "hi3d_stage2", options.placement, context)
        size = options.size
        white = orbit.rgba[..., :3] * orbit.rgba[..., 3:] + (1 - orbit.rgba[..., 3:])
        larger = np.stack([cv2.resize(frame, (size, size)) for frame in white]).transpose(0, 3, 1, 2)
        frames = torch.from_numpy(np.ascontiguousarray(larger, dtype=np.float32)) * 2 - 1
        frames[:1] = orbits.as_picture(cutout.rgba, size)
        known = orbits.HI3D_SECOND
        pictures = orbits.hi3d_second(
            model,
            frames,
            round(_elevation(orbit)),
            orbits.generator_of(context.generator()),
            engine.watching(context, "orbit"),
            steps=options.steps or known.steps,
            guidance=engine.guided(known.guidance, options.guidance),
            cond_aug=known.cond_aug if options.cond_aug < 0 else options.cond_aug,
            anchor=options.anchor,
        )
        cameras = orbit.cameras.resized(size, size)
        return engine.views_of(pictures, resize_rgba(cutout.rgba, size), cameras, context)


def _elevation(orbit: Views) -> float:
    """Degrees, of the first camera as seen from the origin; positive looks down."""
    centre = orbit.cameras.centres[0]
    return float(np.degrees(np.arcsin(centre[2] / np.linalg.norm(centre))))
