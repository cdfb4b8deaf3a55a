"""A picture of an object out of words, by any text-to-image pipeline of diffusers: in front of `generate`."""

import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from backend.pipeline.engines import MODELS, PROMPT_MODEL, not_installed
from backend.pipeline.values import Picture
from shared_protocol.errors import EngineUnavailable, InvalidInput, WeightsError

TEMPLATE = "{}, the whole object in view, centred, plain white background"
"""Around the user's words: what the orbit models were trained on."""

Step = Callable[[int, int, str], None]


def draw(prompt: str, model: str | None, seed: int, step: Step = lambda done, total, text: None) -> Picture:
    """Draw a picture of the prompt; the same seed gives the same picture on one machine.

    model  a folder with a diffusers pipeline, or a hub's "owner/name", which diffusers fetches and keeps;
           left out: what ORRERY_PROMPT_MODEL says
    step   told of progress; raises Cancelled
    Raises InvalidInput, EngineUnavailable where packages lack, WeightsError where it cannot be opened.
    """
    model = model or os.environ.get(PROMPT_MODEL)
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", "words for one object")
    if not model:
        raise InvalidInput(
            "nothing says which pipeline draws the prompt",
            f"--prompt-model, or {PROMPT_MODEL} in the backend's environment, with a text-to-image pipeline "
            "of diffusers: a folder, or owner/name on a hub",
        )
    if missing := not_installed(MODELS):
        raise EngineUnavailable(
            f"not installed: {', '.join(missing)}", remedy='Run: pip install "orrery[models]"'
        )
    pipeline = _opened(model, step)
    import torch

    random = torch.Generator().manual_seed(seed)
    pipeline.set_progress_bar_config(disable=True)

    def told(pipe: Any, number: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        step(number + 1, pipe.num_timesteps, "Drawing the prompt")
        return values

    step(0, 1, "Drawing the prompt")
    # A few of diffusers' pipelines tell nothing while they draw.
    tells = "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters
    drawn = pipeline(
        TEMPLATE.format(prompt.strip()),
        generator=random,
        output_type="np",
        **({"callback_on_step_end": told} if tells else {}),
    ).images[0]
    opaque = np.ones((*drawn.shape[:2], 1))
    return Picture(np.ascontiguousarray(np.concatenate([drawn, opaque], axis=-1), dtype=np.float32))


def _opened(model: str, step: Step) -> Any:
    """The pipeline on its device; while it loads, or is fetched for the first time, `step` is told."""

    def load() -> Any:
        import torch
        from diffusers import AutoPipelineForText2Image

        cuda = torch.cuda.is_available()
        pipeline = AutoPipelineForText2Image.from_pretrained(
            model, dtype=torch.float16 if cuda else torch.float32, use_safetensors=True
        )
        return pipeline.to("cuda" if cuda else "cpu")

    executor = ThreadPoolExecutor(1)
    try:
        loading = executor.submit(load)
        while not wait([loading], timeout=0.5).done:
            step(0, 1, f"Opening {model}")
        return loading.result()
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(
            f"'{model}' cannot be opened as a text-to-image pipeline ({_first_line(error)})",
            "a folder, or a hub's owner/name, with model_index.json and safetensors",
        ) from error
    finally:
        executor.shutdown(wait=False)  # a fetch that was cancelled ends by itself


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
