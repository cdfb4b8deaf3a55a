"""What the published models' orbits ask of the other stages: over the quality's options, under the user's.

Picture sizes and framing are those of the models' training. On a GPU their papers' own ways to Gaussians,
surface and texture follow, where the packages are there; on a CPU the embedded engines' do.
"""

from collections.abc import Mapping
from typing import Any

from backend.pipeline.engines import availability, cuda_present, find_engine
from backend.weights import lpips_vgg

Changes = Mapping[str, Mapping[str, Any]]
"""Stage -> field -> value."""

_GENERATED = {"agreement": "generated"}

ORBITS: Mapping[str, Changes] = {
    # 16 views between those 16 are drawn from the Gaussians before the surface is fitted (Hi3D, 3.4)
    "hi3d": {
        "matting": {"size": 1024, "fill": 0.73},
        "orbit": {"views": 16, "size": 512},
        "refine": {"engine": "hi3d", "size": 1024},
        "splats": {"size": 512},
        "surface": {"neus_views": 16} | _GENERATED,
    },
    "v3d": {
        "matting": {"size": 512, "fill": 0.7},
        "orbit": {"views": 18, "size": 512},
        "refine": {"size": 512},
        "surface": _GENERATED,
    },
    "sv3d_u": {
        "matting": {"size": 576},
        "orbit": {"views": 21, "size": 576},
        "refine": {"size": 576},
        "surface": _GENERATED,
    },
    "sv3d_p": {
        "matting": {"size": 576},
        "orbit": {"views": 21, "size": 576},
        "refine": {"size": 576},
        "surface": _GENERATED,
    },
}

_V3D_SPLATS = {
    "engine": "gsplat", "gaussians": 100_000, "steps": 4000, "size": 512, "sh_degree": 0,
    "loss": "mse", "ssim": 1.0, "alpha": 0.0, "opacity": 0.1, "start": "published", "densify": "published",
    "rates": "published", "coarse": 0.0,
}  # fmt: skip
"""The paper's form (MSE + D-SSIM + LPIPS) with the weights of the released command; LPIPS has 2.0 there."""
V3D_PERCEPTUAL = 2.0

ON_GPU: Mapping[str, Changes] = {
    "hi3d": {
        "splats": {"engine": "gsplat"},
        "surface": {"engine": "neus", "neus_settings": "published"},
        "texture": {"engine": "refine_cuda"},
    },
    "v3d": {
        "splats": _V3D_SPLATS,
        "surface": {"engine": "neus", "neus_settings": "published"},
        "texture": {"engine": "refine_cuda"},
    },
}


def _v3d_perceptual(stage: str, better: bool) -> dict[str, Any]:
    """LPIPS of V3D's fits where its weights are here; of the Gaussians, what comes near it where those are.

    better  whether the engine has the weights that make it better
    """
    exact = lpips_vgg.present()
    if stage == "splats" and (exact or better):
        return {"perceptual": V3D_PERCEPTUAL, "perceptual_net": "vgg" if exact else "stlpips"}
    return {"refinement": "published"} if stage == "texture" and exact else {}


def orbit_preset(engine: str) -> dict[str, dict[str, Any]]:
    """Options by stage for orbits of this engine; empty for the embedded one.

    An engine of ON_GPU that cannot run here leaves its stage as it is.
    """
    asked = {stage: dict(fields) for stage, fields in ORBITS.get(engine, {}).items()}
    if not asked or not cuda_present():
        return asked
    for stage, fields in ON_GPU.get(engine, {}).items():
        entry = find_engine(stage, fields["engine"])
        state = availability(entry)
        if state.ready:
            asked[stage] = asked.get(stage, {}) | dict(fields)
            if engine == "v3d":
                asked[stage] |= _v3d_perceptual(stage, better=not state.reason)
    return asked
