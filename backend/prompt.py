"""A picture of an object out of words, by any text-to-image pipeline of diffusers: in front of `generate`."""

import importlib.util

import numpy as np

from backend.pipeline.values import Picture
from shared_protocol.errors import EngineUnavailable, InvalidInput, WeightsError

TEMPLATE = "{}, the whole object in view, centred, plain white background"
"""Around the user's words: what the orbit models were trained on."""
PACKAGES = ("torch", "diffusers", "transformers")


def draw(prompt: str, model: str | None, seed: int) -> Picture:
    """Draw a picture of the prompt; the same seed gives the same picture on one machine.

    model  a folder with a diffusers pipeline, or a hub's "owner/name", which diffusers fetches and keeps
    Raises InvalidInput, EngineUnavailable where packages lack, WeightsError where it cannot be opened.
    """
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", "words for one object")
    if not model:
        raise InvalidInput(
            "--prompt names no pipeline that could draw it",
            "--prompt-model with a diffusers text-to-image pipeline: a folder, or owner/name on a hub",
        )
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineUnavailable(
            f"not installed: {', '.join(missing)}", remedy='Run: pip install "orrery[models]"'
        )
    import torch
    from diffusers import AutoPipelineForText2Image

    cuda = torch.cuda.is_available()
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            model, dtype=torch.float16 if cuda else torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(
            f"'{model}' cannot be opened as a text-to-image pipeline ({_first_line(error)})",
            "a folder, or a hub's owner/name, with model_index.json and safetensors",
        ) from error
    pipeline.to("cuda" if cuda else "cpu")
    random = torch.Generator().manual_seed(seed)
    drawn = pipeline(TEMPLATE.format(prompt.strip()), generator=random, output_type="np").images[0]
    opaque = np.ones((*drawn.shape[:2], 1))
    return Picture(np.ascontiguousarray(np.concatenate([drawn, opaque], axis=-1), dtype=np.float32))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
