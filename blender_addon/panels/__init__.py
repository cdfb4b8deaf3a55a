"""The sidebar tab, one file a panel."""

from .engines import ENGINE_MENUS, ORRERY_PT_engines
from .generate import ORRERY_PT_generate
from .mesh import ORRERY_PT_mesh
from .options import ORRERY_PT_options
from .results import ORRERY_PT_results

CLASSES = (
    ORRERY_PT_generate,
    ORRERY_PT_mesh,
    ORRERY_PT_engines,
    ORRERY_PT_options,
    *ENGINE_MENUS,
    ORRERY_PT_results,
)
