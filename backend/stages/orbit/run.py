"""Orbit: one cut-out picture in, N views on a known camera ring out."""

from backend.geometry.cameras import ring
from backend.pipeline.options import OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from shared_protocol.errors import InvalidInput

MAX_ELEVATION = 60.0
MAX_RELIEF = 0.05


def ring_cameras(options: OrbitOptions):
    """The cameras of the ring; view 0 is the input view. InvalidInput for a ring that cannot be."""
    if options.views < 4 or options.views > 128:
        raise InvalidInput(f"orbit.views is {options.views}", "4 to 128")
    if options.size < 64 or options.size > 2048:
        raise InvalidInput(f"orbit.size is {options.size}", "64 to 2048 pixels")
    if abs(options.elevation) > MAX_ELEVATION:
        raise InvalidInput(
            f"orbit.elevation is {options.elevation:g} degrees", f"-{MAX_ELEVATION:g} to {MAX_ELEVATION:g}"
        )
    if not 1 <= options.fov <= 90:
        raise InvalidInput(f"orbit.fov is {options.fov:g} degrees", "1 to 90")
    if not 0.1 <= options.radius <= 100:
        raise InvalidInput(f"orbit.radius is {options.radius:g} m", "0.1 to 100")
    if not 0 <= options.relief <= MAX_RELIEF:
        raise InvalidInput(f"orbit.relief is {options.relief:g}", f"0 to {MAX_RELIEF:g} of the object's size")
    return ring(
        options.views,
        radius=options.radius,
        elevation_degrees=options.elevation,
        fov_degrees=options.fov,
        size=options.size,
    )


def run(*, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
    """Generate `options.views` images around the object.

    cutout.rgba     (M, M, 4), the object framed for camera 0
    returns.rgba    (N, S, S, 4), S = options.size; view 0 is the cut-out itself
    returns.cameras a ring at options.elevation and options.radius, azimuth growing counter-clockwise

    Raises InvalidInput for a ring that cannot be, Cancelled.
    """
    ring_cameras(options)
    views = context.engine.generate(cutout, options, context)
    context.preview("orbit", lambda: views.rgba[len(views) // 2])
    return views
