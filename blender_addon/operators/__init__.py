"""What the buttons do, one file a subject."""

from .backend import (
    ORRERY_OT_cancel_install,
    ORRERY_OT_install_backend,
    ORRERY_OT_pull_weights,
    ORRERY_OT_remove_backend,
    ORRERY_OT_repair_backend,
    ORRERY_OT_stop_backend,
)
from .cancel import ORRERY_OT_cancel
from .choose_engine import ORRERY_OT_choose_engine
from .colors import ORRERY_OT_show_textures, ORRERY_OT_standard_view
from .connect import ORRERY_OT_connect, ORRERY_OT_disconnect
from .delete_job import ORRERY_OT_delete_job
from .dismiss import ORRERY_OT_dismiss
from .generate import ORRERY_OT_generate
from .import_result import ORRERY_OT_import_result
from .inputs import (
    ORRERY_FH_image,
    ORRERY_OT_drop_image,
    ORRERY_OT_paste_image,
    ORRERY_OT_render_viewport,
)
from .look import (
    ORRERY_OT_save_frame_times,
    ORRERY_OT_show_log,
    ORRERY_OT_show_older,
    ORRERY_OT_show_preferences,
)
from .queue import ORRERY_OT_move_first, ORRERY_OT_pause
from .retry import ORRERY_OT_rerun, ORRERY_OT_retry, ORRERY_OT_retry_with_changes
from .show_result import ORRERY_OT_show_result

CLASSES = (
    ORRERY_OT_generate,
    ORRERY_OT_cancel,
    ORRERY_OT_pause,
    ORRERY_OT_move_first,
    ORRERY_OT_retry,
    ORRERY_OT_retry_with_changes,
    ORRERY_OT_rerun,
    ORRERY_OT_delete_job,
    ORRERY_OT_import_result,
    ORRERY_OT_render_viewport,
    ORRERY_OT_paste_image,
    ORRERY_OT_drop_image,
    ORRERY_FH_image,
    ORRERY_OT_connect,
    ORRERY_OT_disconnect,
    ORRERY_OT_stop_backend,
    ORRERY_OT_install_backend,
    ORRERY_OT_repair_backend,
    ORRERY_OT_remove_backend,
    ORRERY_OT_cancel_install,
    ORRERY_OT_pull_weights,
    ORRERY_OT_choose_engine,
    ORRERY_OT_dismiss,
    ORRERY_OT_show_log,
    ORRERY_OT_show_older,
    ORRERY_OT_show_preferences,
    ORRERY_OT_save_frame_times,
    ORRERY_OT_show_result,
    ORRERY_OT_show_textures,
    ORRERY_OT_standard_view,
)
