"""The options of every stage and the three presets: plain numbers, no heavy imports.

Defaults are the `standard` preset. `preset(quality)` gives one options object a stage; `override`
changes single fields from `stage.field=value` texts (command line, add-on, wire).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

from backend.pipeline.presets import orbit_preset
from shared_protocol.errors import InvalidInput

AUTO = "auto"
"""Engine name that lets a stage choose: the best one that is ready and fits the input."""

QUALITIES = ("draft", "standard", "high")

SPLAT_FORMATS = ("ply", "compressed.ply", "spz", "splat")
"""As `shared_protocol.splats.files.FORMATS`, which needs numpy."""

MESH_FORMATS = ("glb", "obj", "ply", "stl")

LEAST_FACES = 100
MOST_LODS = 4


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

    Of the published models, which have radius and fov of their own (0: as published):

    steps         of denoising
    guidance      how strongly the picture is followed, where it is followed most
    cond_aug      noise on the picture that they are given; -1: as published
    aesthetic     Hi3D: score that is asked for; None: what its predictor gives the picture
    fps, motion   V3D: constants left over from SVD; its demo has 0 and 0, with cond_aug 0.05
    path          SV3D_p: views as "azimuth:elevation, ..." in degrees, azimuth 0 the input view's
    placement     of the networks on the GPU: "full", "parts", "sequential", or "auto": by its memory
    """

    engine: str = AUTO
    views: int = 16
    size: int = 512
    elevation: float = 0.0
    radius: float = 3.0
    fov: float = 25.0
    relief: float = 0.008
    steps: int = 0
    guidance: float = 0.0
    cond_aug: float = -1.0
    aesthetic: float | None = None
    fps: float = 1.0
    motion: float = 300.0
    path: str = ""
    placement: str = AUTO


@dataclass(frozen=True)
class RefineOptions:
    """Upsample the orbit; size equal to the orbit's leaves it as it is.

    steps, guidance, cond_aug, placement  of Hi3D's second stage, as in the orbit's
    anchor  Hi3D: go back to the first stage's frames before each step; in its code, not in its paper
    """

    engine: str = AUTO
    size: int = 512
    steps: int = 0
    guidance: float = 0.0
    cond_aug: float = -1.0
    anchor: bool = True
    placement: str = AUTO


@dataclass(frozen=True)
class SplatsOptions:
    """Gaussian fit (V3D 3.3).

    gaussians   number of Gaussians placed on the carved hull
    start       what they are at first: "measured" (flat, opaque, a little below it) or "published" (3DGS,
                V3D: balls as large as their neighbours are far, of opacity 0.5)
    steps       optimisation steps at most
    size        pixels, the views are resized to this for fitting
    batch       views a step, each on its own core
    coarse      share of the steps, the first ones, at half that size
    loss        "mse" (V3D) or "l1" (3DGS, ReconX) for the colours
    ssim        weight of D-SSIM next to it (V3D: MSE + ls D-SSIM + ll LPIPS)
    alpha       weight of the squared error of alpha next to it (ours)
    opacity     weight of the mean opacity of the Gaussians next to it (V3D's code: 0.1)
    perceptual  weight of the perceptual term; None ("auto"): on where its weights are present
    perceptual_net  what measures it: "stlpips" (crops, late in the fit) or "vgg" (LPIPS as V3D has it, whole
                views at every step; engine "gsplat", weights "lpips_vgg")
    rates       learning rates: "measured", for hundreds of steps from the hull; "published" (3DGS, V3D), for
                thousands
    densify     "none" (ReconX), "classic" (3DGS, within a budget), "published" (3DGS, V3D: as their code has
                it, for thousands of steps) or "mcmc" (3DGS-MCMC)
    most        Gaussians that densification may end with; 0 for twice `gaussians`, of "published" any number
    hold_out    views kept from the fit; it ends when they gain no more
    refine_cameras  learn small corrections of poses and exposures; the later stages use them
    antialiased     Gaussians thinner than a pixel become fainter (Mip-Splatting): for views at other sizes
    """

    engine: str = AUTO
    gaussians: int = 20_000
    start: str = "measured"
    steps: int = 400
    size: int = 512
    sh_degree: int = 0
    batch: int = 1
    coarse: float = 0.5
    loss: str = "mse"
    ssim: float = 0.02
    alpha: float = 0.1
    opacity: float = 0.0
    perceptual: float | None = None
    perceptual_net: str = "stlpips"
    rates: str = "measured"
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
    hollow     carve hollows whose mouth the views look into, as a cup's, and continue their walls and floor
               where no view sees them (only where the hull is carved by matching)
    agreement  how far the views show one and the same object: "true" (photos, renders), "generated", or
               "auto": by how well their outlines fit one shape
    features   degrees: edges at least this sharp are kept when faces are reduced; 0 for none
    quads      remesh to quads (half as many as `faces`), for editing and subdivision
    lods       coarser copies: how many, each with a quarter of the faces of the one before ("2"), or their
               budgets ("5000,1000"); "0" for none

    The engine "neus" has instead of grid and carve (0: as its settings have it):

    neus_settings  "published" (V3D), "small" (minutes on a CPU), or "auto": by the device
    neus_steps     optimisation steps
    neus_rays      rays of a step at most
    neus_cells     marching cubes' cells along the object's longest side
    neus_views     views drawn from the Gaussians between those given, as Hi3D adds 16
    neus_refine_cameras  learn small corrections of the poses along with the surface
    """

    engine: str = AUTO
    grid: int = 128
    faces: int = 20_000
    carve: bool = True
    hollow: bool = True
    agreement: str = AUTO
    features: float = 30.0
    quads: bool = False
    lods: str = "0"
    neus_settings: str = AUTO
    neus_steps: int = 0
    neus_rays: int = 0
    neus_cells: int = 0
    neus_views: int = 0
    neus_refine_cameras: bool = False

    def __post_init__(self) -> None:
        self.lod_budgets()

    def lod_budgets(self) -> tuple[int, ...]:
        """Triangles of each coarser copy, the finest first; InvalidInput where `lods` says nothing clear."""
        try:
            numbers = [int(text) for text in self.lods.split(",")]
        except ValueError:
            numbers = [-1]
        if len(numbers) == 1 and 0 <= numbers[0] <= MOST_LODS:
            numbers = [max(self.faces >> (2 * level), LEAST_FACES) for level in range(1, numbers[0] + 1)]
        if len(numbers) > MOST_LODS or any(n < LEAST_FACES for n in numbers) or numbers != sorted(
            numbers, reverse=True
        ):  # fmt: skip
            raise InvalidInput(
                f"'{self.lods}' names no coarser copies of the mesh",
                f"how many (0 to {MOST_LODS}), or falling numbers of faces from {LEAST_FACES} up: 5000,1000",
            )
        return tuple(numbers)


@dataclass(frozen=True)
class TextureOptions:
    """UV atlas and projection.

    size        edge of the atlas, pixels, 64 to 4096; any number, not only powers of two
    optimise    fit the texture to the views at fixed geometry (V3D 3.3) after the blend
    refinement  of engine "refine_cuda": "measured", or "published" (V3D: MSE + LPIPS, weights "lpips_vgg")
    normal_map  bake what the reduction of faces took away into a tangent-space normal map
    delight     take the smooth part of the lighting out of the base colour and guess a roughness
    """

    engine: str = AUTO
    size: int = 1024
    optimise: bool = True
    refinement: str = "measured"
    normal_map: bool = False
    delight: bool = False

    def __post_init__(self) -> None:
        if not 64 <= self.size <= 4096:
            raise InvalidInput(f"the texture size {self.size} is out of bounds", "64 to 4096 pixels")
        if self.refinement not in ("measured", "published"):
            raise InvalidInput(f"no refinement is called '{self.refinement}'", "measured or published")


@dataclass(frozen=True)
class ExportOptions:
    """Files.

    turntable     write the contact sheet and the film
    splat_format  one of SPLAT_FORMATS; others than "ply" are written beside splats.ply
    mesh_formats  some of MESH_FORMATS, with commas; mesh.glb is always written
    up            axis that is up in the other mesh formats: "y", "z", or "auto" (what programs expect of
                  each: y in OBJ, z in PLY and STL). GLB is y-up by its standard. Metres in all of them
    settle_steps  of a last fit of the Gaussians, in which the surface says what no view does; 0 for none
    settle_size   pixels of its pictures, as `splats.size`
    """

    engine: str = AUTO
    turntable: bool = True
    film_frames: int = 48
    splat_format: str = "ply"
    mesh_formats: str = "glb"
    up: str = AUTO
    settle_steps: int = 150
    settle_size: int = 512

    def __post_init__(self) -> None:
        unknown = [name for name in self.mesh_formats.split(",") if name not in MESH_FORMATS]
        if unknown:
            raise InvalidInput(f"'{unknown[0]}' is no format of meshes", "some of " + ",".join(MESH_FORMATS))
        if self.up not in (AUTO, "y", "z"):
            raise InvalidInput(f"'{self.up}' is no axis that can be up", "auto, y or z")
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
        "export": {"film_frames": 24, "settle_steps": 60, "settle_size": 384},
    },
    "standard": {},
    "high": {
        "matting": {"size": 1024},
        "refine": {"size": 1024},
        "splats": {"gaussians": 50_000, "steps": 500, "size": 1024},
        "surface": {"faces": 50_000},
        "texture": {"size": 2048},
        "export": {"film_frames": 72, "settle_size": 1024},
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

    An orbit engine that is named brings what its orbits ask of the other stages (`presets`).
    Raises InvalidInput naming the stage's fields when one is unknown or a value does not fit.
    """
    result = dict(options)
    for stage, asked in orbit_preset(str(changes.get("orbit.engine", ""))).items():
        if stage in result:
            result[stage] = dataclasses.replace(result[stage], **asked)
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
