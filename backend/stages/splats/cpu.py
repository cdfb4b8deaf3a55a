"""Gaussian splatting on the CPU: our Numba rasteriser, needs nothing beyond the base install."""

from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats.fit import fit, prune
from backend.stages.splats.init import start_on_hull
from backend.stages.splats.targets import make_targets


class CpuSplats:
    """Carves, colours, fits, prunes."""

    version = "1"

    def fit(self, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
        """views -> Gaussians; see `run.py`."""
        context.step(0, options.steps, "Carving the hull for the Gaussians")
        start = start_on_hull(views, options, context)
        return Splats(
            **vars(prune(fit(start, make_targets(views, options.size, context.check), options, context)))
        )
