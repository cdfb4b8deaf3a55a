"""Small pictures on the disk -> icons for panels; Blender reads them beside the main thread."""

from pathlib import Path

import bpy.utils.previews

MOST = 300

_icons: bpy.utils.previews.ImagePreviewCollection | None = None


def icon(path: Path) -> int:
    """The icon's number for `template_icon`; 0 where there is no such file."""
    global _icons
    if _icons is None or len(_icons) > MOST:
        unregister()
        _icons = bpy.utils.previews.new()
    key = str(path)
    if key not in _icons:
        if not path.exists():
            return 0
        _icons.load(key, key, "IMAGE")
    return _icons[key].icon_id


def unregister() -> None:
    """Let all of them go."""
    global _icons
    if _icons is not None:
        bpy.utils.previews.remove(_icons)
    _icons = None
