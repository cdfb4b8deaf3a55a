"""What the extension's manifest says; no bpy."""

import tomllib
from functools import cache
from pathlib import Path


@cache
def version() -> str:
    """The add-on's version."""
    text = (Path(__file__).parent / "blender_manifest.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["version"])
