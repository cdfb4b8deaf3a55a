"""How the neural surface is trained: V3D's published numbers, and small ones for a CPU."""

from dataclasses import dataclass, replace

from backend.pipeline.options import SurfaceOptions
from shared_protocol.errors import InvalidInput

FINITE_DIFFERENCE, ANALYTIC = "finite_difference", "analytic"
SPHERE, HULL = "sphere", "hull"


@dataclass(frozen=True)
class Weights:
    """Of the loss's terms, as in V3D's configuration; `hull`, of ours, keeps the surface inside the hull."""

    color: float = 0.5
    mask: float = 1.0
    eikonal: float = 0.2
    smoothness: float = 1.0
    sparsity: float = 0.5
    hull: float = 0.0


@dataclass(frozen=True)
class Settings:
    """One training. The object fills the unit ball; lengths are in its radius.

    steps         optimisation steps
    levels, features, log2_table, base_resolution, growth  hash grid (Instant-NGP)
    start_level, steps_per_level  levels in use at first, and the steps after which one more joins them
    hidden        neurons of each hidden layer: one of the distance's, two of the colour's network
    sdf_outputs   the distance and what the colour's network gets of it
    start         "sphere" of `start_radius`, or "hull": first fitted to the visual hull for `hull_steps`
    gradient      "finite_difference" over a cell of the finest level in use, or "analytic"
    inverse_scale_start  of NeuS: the sharpness of the surface is exp(10 * this), learned
    anneal_end    step from which the slope of the surface is taken as it is (NeuS' cosine annealing)
    rays_start, rays_most, samples  rays of a step: as many as give about this many samples
    ray_steps     sample positions along the diameter of the ball
    occupancy     cells a side of the grid that says where samples are worth it
    random_points for smoothness and sparsity, in the whole cube; half near the hull where that has a weight
    nudge         standard deviation of the neighbours for smoothness
    rates         of geometry, colours, sharpness; constant for `constant_steps`, then down to a tenth
    pose_rate     of the cameras, where they are refined
    cells         marching cubes, along the object's longest side
    """

    steps: int = 3000
    levels: int = 10
    features: int = 2
    log2_table: int = 19
    base_resolution: int = 32
    growth: float = 1.3195
    start_level: int = 4
    steps_per_level: int = 1000
    hidden: int = 64
    sdf_outputs: int = 13
    start: str = SPHERE
    start_radius: float = 0.5
    hull_steps: int = 0
    gradient: str = FINITE_DIFFERENCE
    inverse_scale_start: float = 0.3
    anneal_end: int = 20_000
    rays_start: int = 256
    rays_most: int = 8192
    samples: int = 256 * 1024
    ray_steps: int = 1024
    occupancy: int = 128
    occupancy_threshold: float = 1e-3
    random_points: int = 2048
    nudge: float = 1e-2
    rates: tuple[float, float, float] = (1e-3, 1e-2, 1e-3)
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-15
    constant_steps: int = 500
    last_rate: float = 0.1
    pose_rate: float = 5e-4
    cells: int = 384
    weights: Weights = Weights()

    def active_levels(self, step: int) -> int:
        """Levels of the hash grid in use at this step."""
        return min(self.start_level + step // self.steps_per_level, self.levels)

    def resolution(self, level: int) -> int:
        """Cells a side of level 0, 1, ..."""
        return int(self.base_resolution * self.growth**level)

    def rate_factor(self, step: int) -> float:
        """What the learning rates are multiplied with."""
        if step < self.constant_steps:
            return 1.0
        return self.last_rate ** ((step - self.constant_steps) / max(self.steps - self.constant_steps, 1))


PUBLISHED = Settings()
"""V3D, mesh_recon/configs/videonvs.yaml."""

SMALL = replace(
    PUBLISHED,
    steps=900,
    levels=6,
    log2_table=18,
    steps_per_level=225,
    start=HULL,
    hull_steps=150,
    gradient=ANALYTIC,
    anneal_end=300,
    rays_most=2048,
    samples=24 * 1024,
    ray_steps=200,
    occupancy=64,
    random_points=512,
    rates=(5e-3, 1e-2, 1e-3),
    constant_steps=200,
    cells=128,
    inverse_scale_start=0.45,
    weights=Weights(color=2.5, eikonal=1.0, smoothness=0.3, hull=3.0),
)
"""For a CPU: minutes. It starts at the visual hull: a sphere's way there would take most of the steps. So it
starts as sharp as a sphere would be after 150 steps, and is held inside that hull: an underside that no view
sees sank by .03 of the object's size. Colours weigh more than V3D's .5, with which few steps leave flat sides
bulging as the hull's do: a box's Chamfer was .0094 with it, .0049 with 2.5 and 5, .0057 with 15 (pits).

Few steps leave the slopes of a field that follows fine texture too steep: on a torus 1.15 with V3D's
eikonal weight, 1.02 with this one. Measured before that on a scan (drill, 16 views of 512 pixels; Chamfer
distance, CPU seconds): these settings 0.0053, 119 s; with half the rays, two thirds of the steps and
smoothness 1, 0.0070, 41 s. Of the latter, smoothness 0.1 made 0.0058; finite differences for the gradient
0.0063, at twice the time.
"""

PRESETS = {"published": PUBLISHED, "small": SMALL}


def settle(options: SurfaceOptions, cuda: bool) -> Settings:
    """The preset that fits the device, or the one asked for, with the user's numbers."""
    name = options.neus_settings
    if name == "auto":
        name = "published" if cuda else "small"
    if name not in PRESETS:
        raise InvalidInput(f"surface.neus_settings is '{name}'", "one of auto, " + ", ".join(PRESETS))
    settings = PRESETS[name]
    for value, least, field in (
        (options.neus_steps, 1, "steps"),
        (options.neus_rays, 16, "rays_most"),
        (options.neus_cells, 16, "cells"),
    ):
        if value and value < least:
            raise InvalidInput(
                f"surface.neus_{field.removesuffix('_most')} is {value}", f"0, or at least {least}"
            )
        if value:
            settings = replace(settings, **{field: value})
    return settings
