"""What the engines of published models share: a model opened and watched, posed views out of its pictures."""

import numpy as np
import torch

from backend.geometry.cameras import Cameras
from backend.models.convert import convert
from backend.models.layouts import LAYOUTS
from backend.models.load import Placement, PublishedModel
from backend.models.orbits import Watch, as_arrays
from backend.models.sampling import Guidance
from backend.pipeline.engines import availability, find_engine, load_engine
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views, quantize
from backend.weights import store
from backend.weights.converted import is_whole
from shared_protocol.errors import StageFailed

TRUST = 0.8
"""In a generated view, next to the input picture's 1."""
LEAST_COVER = 0.002
"""Share of a view that must be object: less is a failed cut or an empty picture."""


def opened(name: str, layout: str, placement: str, context: StageContext) -> PublishedModel:
    """A model of the catalogue, converted on its first use; WeightsError where it is not here."""
    entry = store.find_entry(name)
    file = next(file for file in entry.files if file.layout == layout)
    folder = store.converted_folder(name, file)
    if not is_whole(folder):
        store.require(name)
        convert(
            store.weights_path(name, file.name),
            LAYOUTS[layout],
            folder,
            parts=frozenset(file.parts) or None,
            on_progress=lambda done, total, text: context.step(done >> 20, max(1, total >> 20), text),
            cancelled=context.cancelled,
        )
    memory = dict(entry.memory)
    chosen = Placement.here("sequential" if context.low_memory else placement, memory)
    context.note(placement=f"{chosen.kind} on {chosen.device.type}")
    return PublishedModel(folder, chosen)


def watching(context: StageContext, name: str) -> Watch:
    """The context as what a long computation tells and asks."""
    return Watch(context.step, context.check, lambda draw: context.preview(name, draw))


def guided(published: Guidance, strongest: float) -> Guidance:
    """The published guidance, with another strongest scale where one is asked for (0: none)."""
    return Guidance(published.kind, published.first, strongest) if strongest else published


def views_of(
    pictures: torch.Tensor,  # [T, 3, S, S] in [-1, 1], the input view first
    front: np.ndarray,  # (S, S, 4)
    cameras: Cameras,
    context: StageContext,
) -> Views:
    """Posed views with the object cut out of its white background; view 0 is the input itself."""
    colours = quantize(as_arrays(pictures)).astype(np.float32) / 255
    rgba = np.empty((*colours.shape[:3], 4), dtype=np.float32)
    rgba[0] = front
    name = "rembg" if availability(find_engine("matting", "rembg")).ready else "grabcut"
    engine = load_engine(find_engine("matting", name))
    within = StageContext("matting", engine, name, context.seed, context.cancelled)
    for index in range(1, len(colours)):
        context.step(index, len(colours), f"Cutting out view {index + 1} of {len(colours)}")
        opaque = Picture(np.dstack([colours[index], np.ones(colours.shape[1:3], dtype=np.float32)]))
        alpha, _ = engine.cut(opaque, within)
        if float(np.mean(alpha > 0.5)) < LEAST_COVER:
            raise StageFailed(
                f"the generated view {index + 1} shows no object",
                "the object on white in every view",
                "Take another seed, or a picture of the whole object.",
            )
        rgba[index] = np.dstack([colours[index], np.asarray(alpha, dtype=np.float32)])
    trust = np.full(len(rgba), TRUST, dtype=np.float32)
    trust[0] = 1
    return Views(rgba, cameras, trust)
