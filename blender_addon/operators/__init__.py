"""What the buttons do, one file an operator."""

from .cancel import ORRERY_OT_cancel
from .choose_engine import ORRERY_OT_choose_engine
from .connect import ORRERY_OT_connect
from .dismiss import ORRERY_OT_dismiss
from .generate import ORRERY_OT_generate
from .import_result import ORRERY_OT_import_result
from .show_result import ORRERY_OT_show_result
from .standard_view import ORRERY_OT_standard_view

CLASSES = (
    ORRERY_OT_generate,
    ORRERY_OT_cancel,
    ORRERY_OT_connect,
    ORRERY_OT_choose_engine,
    ORRERY_OT_dismiss,
    ORRERY_OT_import_result,
    ORRERY_OT_show_result,
    ORRERY_OT_standard_view,
)
