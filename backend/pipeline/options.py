"""The options of every stage and the three presets: plain numbers, no heavy imports.

Defaults are the `standard` preset. `preset(quality)` gives one options object a stage; `override`
changes single fields from `stage.field=value` texts (command line, add-on, wire).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

from shared_protocol.errors import InvalidInput

AUTO = "auto"
"""Engine name that lets a stage choose: the best one that is ready and fits the input."""

QUALITIES = ("draft", "standard", "high")

SPLAT_FORMATS = ("ply", "compressed.ply", "spz", "splat")
"""As `shared_protocol.splats.files.FORMATS`, which needs numpy."""


@dataclass(frozen=True)
class MattingOptions:
    """Cut the object out and frame it for camera 0.

    size  pixels, edge of the square cut-out
    fill  longest side of the object's box over the frame, as V3D recentres (V3D uses 0.7)
    """

    engine: str = AUTO
    size: int = 512
    fill: float = 0.75


@dataclass(frozen=True)
class OrbitOptions:
    """The ring of views.

    radius, fov   metres, degrees: a long lens, so that an object 1 m tall stays inside the frame
                  at every azimuth (fill 0.75 of 1.33 m)
    elevation     degrees, of the input view and so of the ring
    relief        embedded engine: how high the picture's lights and darks stand on the front, at most, a
                  share of the object's longer side; 0 for none
    """

    engine: str = AUTO
    views: int = 16
    size: int = 512
    elevation: float = 0.0
    radius: float = 3.0
    fov: float = 25.0
    relief: float = 0.008


@dataclass(frozen=True)
class RefineOptions:
    """Upsample the orbit; size equal to the orbit's leaves it as it is."""

    engine: str = AUTO
    size: int = 512


@dataclass(frozen=True)
class SplatsOptions:
    """Gaussian fit (V3D 3.3).

    gaussians   number of Gaussians placed on the carved hull
    steps       optimisation steps at most
    size        pixels, the views are resized to this for fitting
    batch       views a step, each on its own core
    coarse      share of the steps, the first ones, at half that size
    loss        "mse" (V3D) or "l1" (3DGS, ReconX) for the colours
    ssim        weight of D-SSIM next to it (V3D: MSE + ls D-SSIM + ll LPIPS)
    perceptual  weight of the perceptual term; None ("auto"): on where its weights are present
    densify     "none" (ReconX), "classic" (3DGS) or "mcmc" (3DGS-MCMC)
    most        Gaussians that densification may end with; 0 for twice `gaussians`
    hold_out    views kept from the fit; it ends when they gain no more
    refine_cameras  learn small corrections of poses and exposures; the later stages use them
    antialiased     Gaussians thinner than a pixel become fainter (Mip-Splatting): for views at other sizes
    """

    engine: str = AUTO
    gaussians: int = 20_000
    steps: int = 400
    size: int = 512
    sh_degree: int = 0
    batch: int = 1
    coarse: float = 0.5
    loss: str = "mse"
    ssim: float = 0.02
    perceptual: float | None = None
    densify: str = "none"
    most: int = 0
    hold_out: int = 0
    refine_cameras: bool = False
    antialiased: bool = False


@dataclass(frozen=True)
class SurfaceOptions:
    """Hull and carve.

    grid       cells along the longest side of the object's box (up to 1.75 times as many for thin parts)
    faces      triangle budget after decimation
    carve      carve the hull by photo-consistent depth; depth that the views bring always carves
    """

    engine: str = AUTO
    grid: int = 128
    faces: int = 20_000
    carve: bool = True


@dataclass(frozen=True)
class TextureOptions:
    """UV atlas and projection; size is the atlas edge in pixels."""

    engine: str = AUTO
    size: int = 1024


@dataclass(frozen=True)
class ExportOptions:
    """Files.

    turntable     write the contact sheet and the film
    splat_format  one of SPLAT_FORMATS; others than "ply" are written beside splats.ply
    """

    engine: str = AUTO
    turntable: bool = True
    film_frames: int = 48
    splat_format: str = "ply"

    def __post_init__(self) -> None:
        if self.splat_format not in SPLAT_FORMATS:
            raise InvalidInput(
                f"'{self.splat_format}' is no format of Gaussians", "one of " + ", ".join(SPLAT_FORMATS)
            )


StageOptions = (
    MattingOptions
    | OrbitOptions
    | RefineOptions
    | SplatsOptions
    | SurfaceOptions
    | TextureOptions
    | ExportOptions
)

STANDARD: dict[str, StageOptions] = {
    "matting": MattingOptions(),
    "orbit": OrbitOptions(),
    "refine": RefineOptions(),
    "splats": SplatsOptions(),
    "surface": SurfaceOptions(),
    "texture": TextureOptions(),
    "export": ExportOptions(),
}

_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "draft": {
        "matting": {"size": 384},
        "orbit": {"size": 384},
        "refine": {"size": 384},
        "splats": {"gaussians": 10_000, "steps": 250, "size": 384},
        "surface": {"grid": 96, "faces": 10_000, "carve": False},
        "export": {"film_frames": 24},
    },
    "standard": {},
    "high": {
        "matting": {"size": 1024},
        "refine": {"size": 1024},
        "splats": {"gaussians": 50_000, "steps": 500, "size": 1024},
        "surface": {"faces": 50_000},
        "texture": {"size": 2048},
        "export": {"film_frames": 72},
    },
}


def preset(quality: str) -> dict[str, StageOptions]:
    """Options of every stage for `draft`, `standard` or `high`."""
    if quality not in _PRESETS:
        raise InvalidInput(f"quality '{quality}' is unknown", "one of " + ", ".join(QUALITIES))
    changes = _PRESETS[quality]
    return {
        stage: dataclasses.replace(options, **changes.get(stage, {})) for stage, options in STANDARD.items()
    }


def override(options: dict[str, StageOptions], changes: dict[str, Any]) -> dict[str, StageOptions]:
    """Apply `{"texture.size": 2048, ...}`; texts are converted to the field's type.

    Raises InvalidInput naming the stage's fields when one is unknown or a value does not fit.
    """
    result = dict(options)
    for path, value in changes.items():
        stage, _, name = path.partition(".")
        if stage not in result:
            raise InvalidInput(f"option '{path}' names no stage", "one of " + ", ".join(result))
        fields = {f.name: f.type for f in dataclasses.fields(result[stage])}
        if name not in fields:
            raise InvalidInput(f"option '{path}' is unknown", f"{stage}." + "|".join(fields))
        result[stage] = dataclasses.replace(result[stage], **{name: _convert(path, value, fields[name])})
    return result


def _convert(path: str, value: Any, kind: Any) -> Any:
    """kind: the field's annotation, a type or `type | None`; None is also written "auto"."""
    if type(None) in get_args(kind):
        if value is None or value == AUTO:
            return None
        kind = get_args(kind)[0]
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        return kind(value)
    except (KeyError, TypeError, ValueError):
        raise InvalidInput(f"option {path}={value!r} does not fit", f"a {kind.__name__}") from None


STAGE_NAMES: tuple[str, ...] = tuple(STANDARD)
assert len(get_args(StageOptions)) == len(STANDARD)
