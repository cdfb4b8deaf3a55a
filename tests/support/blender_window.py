"""Blender's real window out of the bpy module, for tests under Xvfb; run as a program of its own.

    python -m tests.support.blender_window FOLDER

The module carries all of Blender's window code but marks itself as a background process when it is
imported. Its symbol table is complete, so the one byte of code that sets this mark is found by
disassembly and cleared in memory before the import; then Blender's own main loop is run. This depends on
the machine code of the bpy release and is for Linux only: `start` raises HarnessError where it does not
fit, and the test skips.

In the window the add-on is registered and its tab opened. FOLDER/status.json says, four times a second,
where the sidebar lies and how the job stands; FOLDER/quit ends the program.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


class HarnessError(Exception):
    """This bpy cannot be started with a window this way."""


def start() -> tuple[ModuleType, Callable[[], None]]:
    """(bpy, function that runs Blender's main loop until it quits)."""
    path = importlib.util.find_spec("bpy").origin
    ctypes.PyDLL(path, mode=os.RTLD_NOW)
    symbols = _symbols(path)
    base = _load_address(path)
    flag = re.search(r"cmpb\s+\$0x0,(0x[0-9a-f]+)\(", _disassemble(path, _symbol(symbols, "WM_init_gpu"), 40))
    if flag is None:
        raise HarnessError("WM_init_gpu does not look as expected")
    offset = int(flag.group(1), 16)
    entry = _disassemble(path, _symbol(symbols, "main_python_enter"), 0x600)
    store = re.search(rf"^\s*([0-9a-f]+):\s+movb\s+\$0x1,{offset:#x}\(", entry, re.MULTILINE)
    if store is None:
        raise HarnessError("main_python_enter does not set the background flag as expected")
    address = base + int(store.group(1), 16)
    code = (ctypes.c_uint8 * 7).from_address(address)
    if code[0] != 0xC6 or code[6] != 1:
        raise HarnessError("the store of the background flag has another encoding")
    page = address & ~4095
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), 8192, 7):
        raise HarnessError("the code page cannot be made writable")
    code[6] = 0
    import bpy

    context = ctypes.CFUNCTYPE(ctypes.c_void_p)(base + _symbol(symbols, "BPY_context_get"))()
    main = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(base + _symbol(symbols, "WM_main"))
    return bpy, lambda: main(context)


def _symbols(path: str) -> dict[str, int]:
    listing = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"([0-9a-f]{8,}) \w (?:blender::)?(\w+)(?:\(.*)?", line)
        if match:
            found.setdefault(match.group(2), int(match.group(1), 16))
    return found


def _symbol(symbols: dict[str, int], name: str) -> int:
    if name not in symbols:
        raise HarnessError(f"bpy has no symbol {name}")
    return symbols[name]


def _load_address(path: str) -> int:
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if fields[-1] == os.path.realpath(path):
            return int(fields[0].partition("-")[0], 16) - int(fields[2], 16)
    raise HarnessError("bpy is not mapped")


def _disassemble(path: str, start_address: int, length: int) -> str:
    command = ["objdump", "-d", "--no-show-raw-insn", f"--start-address={start_address}"]
    command += [f"--stop-address={start_address + length}", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(folder: Path) -> None:
    """Open the window with the add-on's tab in front, and report until told to quit."""
    try:
        bpy, loop = start()
    except (HarnessError, subprocess.CalledProcessError) as error:
        (folder / "status.json").write_text(json.dumps({"harness": str(error)}))
        return
    settings = json.loads((folder / "settings.json").read_text())
    bpy.context.preferences.view.show_splash = False
    session = (_installed if "zip" in settings else _from_source)(bpy, folder, settings)
    ticks = 0

    def tick() -> float:
        nonlocal ticks
        ticks += 1
        window = bpy.context.window_manager.windows[0]
        area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
        region = next(region for region in area.regions if region.type == "UI")
        if ticks == 1:
            area.spaces.active.show_region_ui = True
            if settings.get("tidy"):  # for pictures in the documentation
                bpy.data.objects.remove(bpy.data.objects["Cube"])
                area.spaces.active.shading.color_type = "TEXTURE"
                area.spaces.active.region_3d.view_distance = 3.2
                area.spaces.active.region_3d.view_location = (0.3, 0, 0.45)
                area.spaces.active.overlay.show_extras = True
            bpy.context.scene.orrery.path = settings["picture"]
            bpy.context.scene.orrery.quality = settings.get("quality", "standard")
        elif ticks == 3:  # the sidebar has been drawn once
            region.active_panel_category = "Orrery"
        elif ticks == 8 and settings.get("generate"):
            bpy.ops.orrery.generate()
        if settings.get("redraw", True):
            area.tag_redraw()
        job = session.current().jobs.latest
        status = {
            "ready": ticks > 6,
            "window": [window.width, window.height],
            "sidebar": [region.x, region.y, region.width, region.height],
            "jobs": len(session.current().jobs.jobs),
            "state": job.state.name if job is not None else "",
            "stage": job.stage if job is not None else "",
            "error": str(job.error or "") if job is not None else "",
            "link": session.current().jobs.link.name,
            "objects": [item.name for item in bpy.data.objects],
        }
        temporary = folder / "status.partial"
        temporary.write_text(json.dumps(status))
        temporary.replace(folder / "status.json")
        if (folder / "quit").exists():
            session.current().frames.save(folder / "frames.json")
            bpy.ops.wm.quit_blender()
        return 0.25

    bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
    loop()


def _from_source(bpy: ModuleType, folder: Path, settings: dict) -> ModuleType:
    """Register the add-on from the repository; returns its session module."""
    import blender_addon
    from blender_addon import panels, preferences, session

    preferences.Defaults.auto_start = False
    session.user_folder = lambda: folder / "user"
    for panel in panels.CLASSES:
        if panel.__name__ in settings.get("open", ()):
            panel.bl_options = panel.bl_options - {"DEFAULT_CLOSED"}
    blender_addon.register()
    return session


def _installed(bpy: ModuleType, folder: Path, settings: dict) -> ModuleType:
    """Install the extension's zip as an artist does; `backend`: folder of an installed one."""
    bpy.ops.extensions.package_install_files(
        filepath=settings["zip"], repo="user_default", enable_on_install=True
    )
    name = "bl_ext.user_default.orrery"
    bpy.context.preferences.addons[name].preferences.backend_folder = settings.get("backend", "")
    session = importlib.import_module(f"{name}.session")
    if not bpy.app.timers.is_registered(session._tick):
        raise HarnessError("the extension does not run")
    return session


if __name__ == "__main__":
    main(Path(sys.argv[1]))
