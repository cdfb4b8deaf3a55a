"""How the number of Gaussians changes during a fit: not at all, as in 3DGS, or as in 3DGS-MCMC.

none     as many as were placed on the hull (ReconX 4.4)
classic  clone what is small and split what is large where the picture pulls, drop the faint, reset
         opacities (Kerbl 2023, section 5), within a budget
published  the same with the numbers of 3DGS' code and no budget, as V3D has it: for thousands of steps
mcmc     move the dead onto the living so that the picture stays as it is, and let the faint drift
         (Kheradmand 2024)

Strategies act on the raw numbers and the moments of Adam between two steps, whatever engine makes the steps.
"classic" and "mcmc" know how many Gaussians there may be at the end and reach that number in equal rounds, so
a fit's time is known before it.
"""

import numpy as np

from backend.stages.splats.divide import Classic, Published, Pulled
from backend.stages.splats.mcmc import Mcmc
from backend.stages.splats.strategy import Keep

STRATEGIES = ("none", "classic", "published", "mcmc")


def densifier(
    name: str,
    *,
    steps: int,
    most: int,
    positions: np.ndarray,
    extent: float,
    scene: float,
    weight: float,
    opacity: float,
    random: np.random.Generator,
) -> Keep:
    """The strategy of this name; see the classes for the arguments.

    most  0: twice as many as there are, of "published" any number
    extent, scene  of the object, and of the scene as 3DGS measures it
    weight, opacity  of the terms of "mcmc", and of the mean opacity whatever the strategy
    """
    budget = most or 2 * len(positions)
    if name == "classic":
        strategy: Keep = Classic(steps, budget, extent, random)
    elif name == "published":
        strategy = Published(steps, most, scene, random)
    elif name == "mcmc":
        strategy = Mcmc(steps, budget, extent, random, weight)
    else:
        strategy = Keep()
    if isinstance(strategy, Pulled):
        strategy.begin(positions)
    strategy.mean_opacity += opacity
    return strategy
