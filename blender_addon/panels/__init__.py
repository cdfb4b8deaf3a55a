"""The sidebar tab, one file a panel."""

from .backend import ORRERY_PT_backend
from .engines import ENGINE_MENUS, ORRERY_PT_engines
from .generate import ORRERY_PT_generate
from .history import ORRERY_PT_history, ORRERY_PT_variations
from .mesh import ORRERY_PT_mesh
from .options import ORRERY_PT_options
from .results import ORRERY_PT_results

CLASSES = (
    ORRERY_PT_generate,
    ORRERY_PT_mesh,
    ORRERY_PT_engines,
    ORRERY_PT_options,
    *ENGINE_MENUS,
    ORRERY_PT_variations,
    ORRERY_PT_results,
    ORRERY_PT_history,
    ORRERY_PT_backend,
)
