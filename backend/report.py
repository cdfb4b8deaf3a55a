"""report.json: what was done, by which engine, how long it took, how good it is."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from backend import __version__
from backend.pipeline.runner import RunResult

_PACKAGES = ("numpy", "scipy", "numba", "opencv-python-headless", "pillow", "trimesh", "av")


def build_report(
    result: RunResult,
    *,
    recipe: str,
    quality: str,
    seed: int,
    source: str,
    warnings: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain dict for JSON.

    source    name of the input as the user gave it (no folder)
    warnings  sentences about how the input was read; those of the stages follow them
    """
    facts = {key: value for report in result.reports for key, value in report.facts.items()}
    exports = result.artifacts["exports"]
    figures = {
        "fit_psnr": facts.get("fit_psnr"),
        "front_psnr": facts.get("front_psnr"),
        "silhouette_iou": facts.get("silhouette_iou"),
        "sizes": {
            "views": len(result.values["views"]),
            "view_pixels": result.values["views"].cameras.width,
            "gaussians": facts.get("gaussians", len(result.values["splats"])),
            "vertices": len(result.values["textured"].mesh.vertices),
            "faces": len(result.values["textured"].mesh.faces),
            "texture_pixels": len(result.values["textured"].texture),
            "bytes": {name: exports.sizes[name] for name in sorted(exports.sizes) if "/" not in name},
        },
    }
    return _about(result, recipe, quality, seed, source, warnings, figures) | dict(extra or {})


def build_orbit_report(
    result: RunResult, *, recipe: str, quality: str, seed: int, source: str, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The same for a recipe that ends with the orbit."""
    views = result.values["orbit"]
    figures = {"sizes": {"views": len(views), "view_pixels": views.cameras.width}}
    return _about(result, recipe, quality, seed, source, warnings, figures)


def _about(
    result: RunResult,
    recipe: str,
    quality: str,
    seed: int,
    source: str,
    warnings: Sequence[str],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """What every report says, around the figures of its recipe."""
    return {
        "source": source,
        "recipe": recipe,
        "quality": quality,
        "seed": seed,
        "seconds": round(sum(r.seconds for r in result.reports if not r.reused), 3),
        **figures,
        "stages": _stages(result),
        "warnings": [*warnings, *(text for report in result.reports for text in report.warnings)],
        "versions": versions(),
    }


def _stages(result: RunResult) -> list[dict[str, Any]]:
    return [
        {
            "stage": report.stage,
            "engine": report.engine,
            "seconds": round(report.seconds, 3),
            "reused": report.reused,
            **report.facts,
        }
        for report in result.reports
    ]


def versions() -> dict[str, str]:
    """Ours, Python's, the system's and the packages' that decide results."""
    return {
        "orrery": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
