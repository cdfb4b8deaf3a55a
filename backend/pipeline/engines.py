"""The table of engines: every way to do a stage, what it needs, and whether it is ready here.

Names and numbers only: no engine module is imported before it is used, so the daemon and `doctor`
read this table without loading numpy-heavy code or torch.

Other packages add engines through the entry-point group `orrery.engines`, whose entries are
`EngineEntry` objects.
"""

import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from shared_protocol.errors import EngineUnavailable, InvalidInput

ENTRY_POINT_GROUP = "orrery.engines"
_MIB, _GIB = 2**20, 2**30


PROMPT_MODEL = "ORRERY_PROMPT_MODEL"
"""Environment variable: the text-to-image pipeline that draws prompts where none is named, as Blender's."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine.

    target    "module:Class"; the instance has the stage's verb (see backend/stages/STAGE/run.py) and
              a `version` text that is part of the key of its stored results
    packages  import names that must be installed, with `extra` the pip extra that brings them
    weights   names in backend/weights/catalog.toml
    better    names of weights that the engine uses where they are, and does without where they are not
    install   how to install the packages where no extra brings them
    step_seconds  the longest it works without a word on a slow machine, where that is more than 12 s
    memory_bytes  of the host that it needs at standard quality beside its inputs, as measured; 0: little
    gpu_bytes     of the GPU, for engines that take one where there is one: the least they can do with, block
                  by block (`memory` in backend/weights/catalog.toml); memory_bytes is for machines without
    """

    stage: str
    name: str
    target: str
    summary: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    weights: tuple[str, ...] = ()
    better: tuple[str, ...] = ()
    cuda: bool = False
    install: str = ""
    step_seconds: float = 0.0
    memory_bytes: int = 0
    gpu_bytes: int = 0


@dataclass(frozen=True)
class Availability:
    """Ready, or why not and what to do; of a ready engine, what it lacks to be at its best."""

    ready: bool
    reason: str = ""
    remedy: str = ""


MODELS = ("torch", "diffusers", "transformers", "safetensors")
"""What the published video models are built of."""
_LEAST_GPU = 7 * _GIB
"""What a card of 8 GB has to offer: the smallest size in the catalogue. The engines' memory_bytes are their
networks in single precision (`doctor --dry-run`) and an estimate of what a step needs beside them."""

ENGINES: tuple[EngineEntry, ...] = (
    EngineEntry("matting", "alpha", "backend.stages.matting.alpha:AlphaMatting",
                "the picture's own alpha channel"),
    EngineEntry("matting", "rembg", "backend.stages.matting.rembg:RembgMatting",
                "U2-Net-P through rembg", packages=("rembg", "onnxruntime"), weights=("u2netp",)),
    EngineEntry("matting", "grabcut", "backend.stages.matting.grabcut:GrabCutMatting",
                "plain background or GrabCut, no weights"),
    EngineEntry("orbit", "inflate", "backend.stages.orbit.inflate:InflateOrbit",
                "single-view shape prior rendered on the ring", memory_bytes=300 * _MIB),
    EngineEntry("orbit", "hi3d", "backend.stages.orbit.published:Hi3DOrbit",
                "Hi3D, first stage: 16 views at 512 pixels", packages=MODELS, extra="models",
                weights=("hi3d",), step_seconds=30.0, memory_bytes=11 * _GIB, gpu_bytes=_LEAST_GPU),
    EngineEntry("orbit", "v3d", "backend.stages.orbit.published:V3DOrbit",
                "V3D: 18 views at 512 pixels", packages=MODELS, extra="models",
                weights=("v3d", "svd_xt"), step_seconds=30.0, memory_bytes=10 * _GIB,
                gpu_bytes=_LEAST_GPU),
    EngineEntry("orbit", "sv3d_u", "backend.stages.orbit.published:Sv3dUOrbit",
                "SV3D_u: 21 views at 576 pixels", packages=MODELS, extra="models",
                weights=("sv3d_u",), step_seconds=30.0, memory_bytes=10 * _GIB, gpu_bytes=_LEAST_GPU),
    EngineEntry("orbit", "sv3d_p", "backend.stages.orbit.published:Sv3dPOrbit",
                "SV3D_p: views at 576 pixels along any path", packages=MODELS, extra="models",
                weights=("sv3d_p",), step_seconds=30.0, memory_bytes=10 * _GIB, gpu_bytes=_LEAST_GPU),
    EngineEntry("refine", "upsample", "backend.stages.refine.upsample:UpsampleRefine",
                "guided upsampling that keeps views consistent"),
    EngineEntry("refine", "hi3d", "backend.stages.refine.hi3d:Hi3DRefine",
                "Hi3D, second stage: the views at 1024 pixels, guided by their depth", packages=MODELS,
                extra="models", weights=("hi3d",), step_seconds=30.0, memory_bytes=12 * _GIB,
                gpu_bytes=_LEAST_GPU),
    EngineEntry("splats", "cpu", "backend.stages.splats.cpu:CpuSplats",
                "Gaussian splatting on the CPU (Numba)", better=("stlpips",), memory_bytes=200 * _MIB),
    EngineEntry("splats", "gsplat", "backend.stages.splats.gsplat:GsplatSplats",
                "Gaussian splatting on CUDA", packages=("torch", "gsplat"), better=("stlpips",),
                extra="models", cuda=True),
    EngineEntry("surface", "hull", "backend.stages.surface.hull:HullSurface",
                "signed-distance hull carved by photo-consistent depth", memory_bytes=400 * _MIB),
    EngineEntry("surface", "neus", "backend.stages.surface.neus.engine:NeusSurface",
                "neural signed distance field (NeuS): for CUDA, minutes on a CPU", packages=("torch",),
                extra="models"),
    EngineEntry("texture", "project", "backend.stages.texture.project:ProjectTexture",
                "few flat charts, cosine-weighted projection", memory_bytes=300 * _MIB),
    EngineEntry("texture", "refine_cuda", "backend.stages.texture.refine_cuda:RefineCudaTexture",
                "projection, then fitted to the views by nvdiffrast", packages=("torch", "nvdiffrast"),
                better=("stlpips",), cuda=True, install='torch (pip install "orrery[models]") and '
                "nvdiffrast (pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast)"),
    EngineEntry("export", "files", "backend.stages.export.files:FilesExport",
                "GLB, PLY, cameras, contact sheet and film"),
)  # fmt: skip
"""In order of preference within a stage, but for matting, whose `choose` looks at the picture."""

EMBEDDED = {
    "matting": "grabcut",
    "orbit": "inflate",
    "refine": "upsample",
    "splats": "cpu",
    "surface": "hull",
    "texture": "project",
    "export": "files",
}
"""The engine of each stage that needs no download and runs on a CPU."""


@cache
def all_engines() -> tuple[EngineEntry, ...]:
    """Our table, then the engines of other installed packages."""
    found = list(ENGINES)
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        entry = point.load()
        if isinstance(entry, EngineEntry):
            found.append(entry)
    return tuple(found)


def find_engine(stage: str, name: str) -> EngineEntry:
    """The entry of this name; InvalidInput lists the names there are."""
    for entry in all_engines():
        if (entry.stage, entry.name) == (stage, name):
            return entry
    names = ", ".join(e.name for e in all_engines() if e.stage == stage)
    raise InvalidInput(f"the {stage} stage has no engine '{name}'", f"one of {names}")


@cache
def cuda_present() -> bool:
    """Whether a CUDA driver is installed; asks no torch."""
    return shutil.which("nvidia-smi") is not None or ctypes.util.find_library("cuda") is not None


def not_installed(packages: Iterable[str]) -> list[str]:
    """Those that are missing; imports none."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def can_draw() -> bool:
    """Whether prompts can be drawn here without naming a pipeline."""
    return bool(os.environ.get(PROMPT_MODEL)) and not not_installed(MODELS)


def availability(entry: EngineEntry) -> Availability:
    """Whether an engine can run here, checked without importing it."""
    from backend.weights.store import weights_present

    missing = not_installed(entry.packages)
    if missing:
        target = f"orrery[{entry.extra}]" if entry.extra else " ".join(missing)
        remedy = f"Install {entry.install}" if entry.install else f'Run: pip install "{target}"'
        return Availability(False, f"not installed: {', '.join(missing)}", remedy)
    if entry.cuda and not cuda_present():
        return Availability(
            False, "no CUDA device", "Use a machine with an NVIDIA GPU and driver, or the CPU engine."
        )
    for ready, words, names in (
        (False, "weights not present", entry.weights),
        (True, "better with weights that are not present", entry.better),
    ):
        absent = [name for name in names if not weights_present(name)]
        if absent:
            return Availability(
                ready,
                f"{words}: {', '.join(absent)}",
                f"Run: python -m backend models pull {' '.join(absent)}",
            )
    return Availability(True)


def load_engine(entry: EngineEntry) -> Any:
    """Import and construct an engine; EngineUnavailable with reason and remedy if it cannot run here."""
    state = availability(entry)
    if not state.ready:
        raise EngineUnavailable(
            f"the {entry.stage} engine '{entry.name}' is unavailable: {state.reason}",
            remedy=state.remedy,
            stage=entry.stage,
            engine=entry.name,
        )
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def default_engine(stage: str) -> EngineEntry:
    """What `auto` means where the stage has no `choose` of its own: the embedded engine."""
    return find_engine(stage, EMBEDDED[stage])
