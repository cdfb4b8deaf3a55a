"""A published engine at full size without its weights: parameters, memory, work of a step, time.

The networks are built on the meta device, where nothing has memory; a step's operations are counted there. On
a GPU one step can be run on random weights, which says what real ones would need.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backend.models import orbits
from backend.models.layouts import LAYOUTS, UNET, Layout, build_on_meta, parameters_of
from backend.models.sampling import Condition, guided
from backend.models.vae import VaeSettings
from backend.weights.store import find_entry
from shared_protocol.errors import EngineUnavailable, InvalidInput

EFFICIENCY = 0.2
"""Share of a GPU's peak that such nets reach; a guess between convolutions and attention."""
EXAMPLE_TFLOPS = {"RTX 3060": 51, "RTX 4090": 165, "A100": 312, "H100": 990}
"""Half precision, dense, as their makers state: for the table of times."""


@dataclass(frozen=True)
class Full:
    """An engine's networks: layouts with the parts it takes of each, and what it draws.

    weights  its name in the catalogue
    """

    model: orbits.OrbitModel
    takes: tuple[tuple[str, tuple[str, ...]], ...]
    weights: str


_OWN = ("unet", "clip", "encoder", "decoder")
ENGINES = {
    "hi3d": Full(orbits.HI3D, (("hi3d_stage1", (*_OWN, "aesthetic")),), "hi3d"),
    "hi3d_second": Full(orbits.HI3D_SECOND, (("hi3d_stage2", (*_OWN, "first_encoder", "depth")),), "hi3d"),
    "v3d": Full(
        orbits.V3D, (("v3d_object", ("unet", "decoder")), ("svd_xt", ("clip", "first_encoder"))), "v3d"
    ),
    "sv3d_u": Full(orbits.SV3D_U, (("sv3d_u", _OWN),), "sv3d_u"),
    "sv3d_p": Full(orbits.SV3D_P, (("sv3d_p", _OWN),), "sv3d_p"),
}
"""The refine engine is "hi3d_second"."""


def examine(engine: str) -> dict[str, Any]:
    """Everything about an engine at full size, as plain numbers; InvalidInput for another name."""
    full = _find(engine)
    parts = {}
    for name, wanted in full.takes:
        layout = LAYOUTS[name]
        for part in layout.parts:
            if part.name in wanted:
                module = build_on_meta(part.network, layout.published(part))
                parts[part.name] = sum(shape.numel() for shape in parameters_of(module).values())
    total = sum(parts.values())
    unet = _unet(LAYOUTS[full.takes[0][0]])
    with FlopCounterMode(display=False) as counter:
        _one_step(unet, full.model, torch.device("meta"), torch.float16)
    work = counter.get_total_flops()
    return {
        "engine": engine,
        "frames": full.model.frames,
        "pixels": full.model.size,
        "parameters": parts | {"all": total},
        "gigabytes": {"float32": total * 4 / 1e9, "float16": total * 2 / 1e9},
        "placement": {str(size): kind for size, kind in find_entry(full.weights).memory.items()},
        "steps": full.model.steps,
        "teraflop_per_step": work / 1e12,
        "estimated_seconds": {
            name: full.model.steps * work / (peak * 1e12 * EFFICIENCY)
            for name, peak in EXAMPLE_TFLOPS.items()
        },
    }


def random_step(engine: str, device: str = "cuda") -> dict[str, float]:
    """Seconds and peak memory of one guided step at full size on random weights (the second of two steps).

    EngineUnavailable without a GPU.
    """
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            "there is no GPU to run a step on", remedy="Without --step everything is computed on paper."
        )
    full = _find(engine)
    where = torch.device(device)
    unet = _unet(LAYOUTS[full.takes[0][0]]).to_empty(device=where)
    randomised(unet)
    torch.cuda.reset_peak_memory_stats(where)
    seconds = 0.0
    for _ in range(2):  # the first one also chooses kernels
        start = time.perf_counter()
        _one_step(unet, full.model, where, torch.float16)
        torch.cuda.synchronize(where)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_gigabytes": torch.cuda.max_memory_allocated(where) / 1e9}


def randomised(module: nn.Module) -> None:
    """Small random numbers in every parameter: a step's time and memory do not depend on their values."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)


def _find(engine: str) -> Full:
    if engine not in ENGINES:
        raise InvalidInput(f"no published engine is called '{engine}'", "one of " + ", ".join(ENGINES))
    return ENGINES[engine]


def _unet(layout: Layout) -> nn.Module:
    module: nn.Module = build_on_meta(UNET, layout.published(layout.part("unet")))
    return module.half().eval().requires_grad_(False)


def _one_step(unet: Any, model: orbits.OrbitModel, device: torch.device, kind: torch.dtype) -> None:
    """One guided Euler step: the net twice, both halves of the guidance in one batch."""
    settings = unet.settings
    edge = model.size // VaeSettings().factor
    rows = model.frames if settings.vector_width == 1280 else 1

    def filled(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=kind)

    noisy = filled(model.frames, 4, edge, edge)
    condition = Condition(
        filled(1, 1, settings.context_width),
        filled(rows, settings.vector_width),
        filled(model.frames, settings.in_channels - 4, edge, edge),
    )
    sigma = torch.ones((), device=device)
    with torch.no_grad():
        guided(unet, noisy, sigma, condition, torch.ones(model.frames, device=device))


def words(found: dict[str, Any]) -> list[str]:
    """Of `examine`, in lines for people."""
    parts = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in found["parameters"].items())
    places = ", ".join(f"{size} GB {kind}" for size, kind in found["placement"].items())
    times = ", ".join(f"{gpu} {seconds:.0f} s" for gpu, seconds in found["estimated_seconds"].items())
    return [
        f"{found['engine']}: {found['frames']} views of {found['pixels']} pixels in {found['steps']} steps",
        f"parameters: {parts}",
        f"weights: {found['gigabytes']['float16']:.2f} GB in half precision, "
        f"{found['gigabytes']['float32']:.2f} GB in full",
        f"placement by the GPU's memory: {places}",
        f"work: {found['teraflop_per_step']:.1f} TFLOP a step; all steps by makers' figures: {times}",
    ]
