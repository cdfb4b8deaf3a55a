"""Folders of converted models, without torch: which there are, and whether they are whole."""

import json
from pathlib import Path
from typing import Any

INDEX = "index.json"
FORMAT = 1
"""Changes when an older folder can no longer be read; it is then converted anew."""


def read_index(folder: Path) -> dict[str, Any] | None:
    """What `backend.models.convert` wrote; None where there is nothing of this format."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("format") == FORMAT else None


def is_whole(folder: Path) -> bool:
    """Whether every shard of the index is there with its size; quick."""
    index = read_index(folder)
    if index is None:
        return False
    try:
        return all(
            (folder / file["name"]).stat().st_size == file["bytes"]
            for part in index["parts"].values()
            for file in part["files"]
        )
    except OSError:
        return False
