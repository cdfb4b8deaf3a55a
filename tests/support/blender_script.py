"""Run a function of a test in Blender's real window, with the add-on's Gaussians; under Xvfb.

    python -m tests.support.blender_script FOLDER MODULE:FUNCTION

The function takes (bpy, folder) and is a generator: after each `yield SECONDS` the window goes on for so
long. FOLDER/outcome.json says how it ended: {"done": true}, {"error": traceback} or {"harness": reason}.
"""

import importlib
import json
import subprocess
import sys
import traceback
from pathlib import Path

from tests.support.blender_window import HarnessError, start


def main(folder: Path, target: str) -> None:
    def report(**outcome: object) -> None:
        (folder / "outcome.json").write_text(json.dumps(outcome))

    try:
        bpy, loop = start()
    except (HarnessError, subprocess.CalledProcessError) as error:
        report(harness=str(error))
        return
    from blender_addon import splats

    bpy.context.preferences.view.show_splash = False
    splats.register()
    module, _, name = target.partition(":")
    steps = getattr(importlib.import_module(module), name)(bpy, folder)

    def tick() -> float | None:
        try:
            return next(steps)
        except StopIteration:
            report(done=True)
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            report(error=traceback.format_exc())
        bpy.ops.wm.quit_blender()
        return None

    bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
    loop()


if __name__ == "__main__":
    sys.path.insert(0, "")
    main(Path(sys.argv[1]), sys.argv[2])
