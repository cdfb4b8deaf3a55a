"""The published orbit models as engines: Hi3D's first stage, V3D, SV3D_u, SV3D_p.

Their networks, and torch, are imported when they run.
"""

import math
from typing import Any

from backend.geometry.images import resize_rgba
from backend.pipeline.options import OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from backend.weights import store
from shared_protocol.errors import InvalidInput

MULTIPLE = 64
"""Picture sizes: eight pixels a latent, halved three times."""
MOST_FRAMES = 64


class _Published:
    """weights: names of the catalogue; other files of that name make other results."""

    weights: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return " ".join(["1", *(store.mark(name) for name in self.weights)])


class Hi3DOrbit(_Published):
    """Hi3D's first stage (Yang 2024): 16 views at 512 pixels, at the input view's elevation."""

    weights = ("hi3d",)

    def generate(self, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
        """See run.py."""
        from backend.models import engine, orbits

        _check(options)
        model = engine.opened("hi3d", "hi3d_stage1", options.placement, context)
        picture = orbits.as_picture(cutout.rgba, options.size)
        pictures, score = orbits.hi3d_first(
            model,
            picture,
            round(options.elevation),
            orbits.generator_of(context.generator()),
            engine.watching(context, "orbit"),
            frames=options.views,
            aesthetic=options.aesthetic,
            **_settings(orbits.HI3D, options),
        )
        context.note(aesthetic=round(score, 3))
        cameras = orbits.ring_of(orbits.HI3D, options.views, options.elevation).cameras(options.size)
        return engine.views_of(pictures, resize_rgba(cutout.rgba, options.size), cameras, context)


class V3DOrbit(_Published):
    """V3D (Chen 2024): 18 views at 512 pixels, at elevation 0."""

    weights = ("v3d", "svd_xt")

    def generate(self, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
        """See run.py."""
        from backend.models import engine, orbits

        _check(options)
        if options.elevation:
            context.warn("V3D knows rings at elevation 0 only; the elevation was left out.")
        model = engine.opened("v3d", "v3d_object", options.placement, context)
        base = engine.opened("svd_xt", "svd_xt", options.placement, context)
        pictures = orbits.v3d(
            model,
            base,
            orbits.as_picture(cutout.rgba, options.size),
            orbits.generator_of(context.generator()),
            engine.watching(context, "orbit"),
            frames=options.views,
            fps=options.fps,
            motion=options.motion,
            **_settings(orbits.V3D, options),
        )
        cameras = orbits.ring_of(orbits.V3D, options.views, 0.0).cameras(options.size)
        return engine.views_of(pictures, resize_rgba(cutout.rgba, options.size), cameras, context)


class Sv3dUOrbit(_Published):
    """SV3D_u (Voleti 2024): 21 views at 576 pixels; the elevation is the picture's, whatever it is."""

    name = "sv3d_u"
    weights = ("sv3d_u",)

    def generate(self, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
        """See run.py."""
        from backend.models import orbits

        azimuths = orbits.sv3d_azimuths(options.views)
        places = (azimuths, (options.elevation,) * options.views)
        return self._generate(cutout, options, context, places, None)

    def _generate(
        self,
        cutout: Picture,
        options: OrbitOptions,
        context: StageContext,
        places: tuple[tuple[float, ...], tuple[float, ...]],
        path: tuple[tuple[float, ...], tuple[float, ...]] | None,
    ) -> Views:
        from backend.models import engine, orbits

        _check(options)
        known = orbits.SV3D_U if path is None else orbits.SV3D_P
        model = engine.opened(self.name, self.name, options.placement, context)
        pictures = orbits.sv3d(
            model,
            orbits.as_picture(cutout.rgba, options.size),
            orbits.generator_of(context.generator()),
            engine.watching(context, "orbit"),
            path=path,
            frames=len(places[0]),
            **_settings(known, options),
        )
        cameras = orbits.path_of(known, places).cameras(options.size)
        front = resize_rgba(cutout.rgba, options.size)
        return engine.views_of(pictures.roll(1, dims=0), front, cameras, context)


class Sv3dPOrbit(Sv3dUOrbit):
    """SV3D_p: the same along any path on the sphere, `options.path` or a ring at `options.elevation`."""

    name = "sv3d_p"
    weights = ("sv3d_p",)

    def generate(self, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
        """See run.py."""
        from backend.models import orbits

        if options.path:
            path = orbits.sv3d_path(read_path(options.path))
        else:
            path = (orbits.sv3d_azimuths(options.views), (options.elevation,) * options.views)
        return self._generate(cutout, options, context, path, path)


def read_path(text: str) -> list[tuple[float, float]]:
    """ "0:10, 45:20" -> [(0, 10), (45, 20)]; InvalidInput where that is no path around the object."""
    expected = "views as azimuth:elevation in degrees, commas between, the input view (azimuth 0) among them"
    try:
        places = [tuple(float(n) for n in place.split(":")) for place in text.split(",")]
        path = [(azimuth % 360, elevation) for azimuth, elevation in places]
    except ValueError:
        raise InvalidInput(f"orbit.path '{text}' cannot be read", expected) from None
    for azimuth, elevation in path:
        if not (-90 < elevation < 90 and math.isfinite(azimuth)):
            raise InvalidInput(
                f"orbit.path has a view at azimuth {azimuth:g}, elevation {elevation:g}",
                "elevations between -90 and 90 degrees",
            )
    if sum(azimuth == 0 for azimuth, _ in path) != 1:
        raise InvalidInput("orbit.path does not pass the input view exactly once", expected)
    if not 4 <= len(path) <= MOST_FRAMES:
        raise InvalidInput(f"orbit.path has {len(path)} views", f"4 to {MOST_FRAMES}")
    return path


def _check(options: OrbitOptions) -> None:
    if options.size % MULTIPLE:
        raise InvalidInput(f"orbit.size is {options.size}", f"a multiple of {MULTIPLE} for this engine")
    if options.views > MOST_FRAMES:
        raise InvalidInput(f"orbit.views is {options.views}", f"at most {MOST_FRAMES} for this engine")


def _settings(known: Any, options: OrbitOptions) -> dict[str, Any]:
    """Steps, guidance and noise: the published ones where the options leave them open."""
    from backend.models.engine import guided

    return {
        "steps": options.steps or known.steps,
        "guidance": guided(known.guidance, options.guidance),
        "cond_aug": known.cond_aug if options.cond_aug < 0 else options.cond_aug,
    }
