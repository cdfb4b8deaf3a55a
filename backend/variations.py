"""Orbits of several seeds, to choose one before anything is reconstructed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.geometry.images import resize_rgba
from backend.local_run import run_with_bars
from backend.output import OutputFolder
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import StageOptions
from backend.pipeline.recipes import IMAGE_TO_ORBIT
from backend.pipeline.values import Picture, Views, quantize
from backend.warmup import start_warm_up
from shared_protocol.errors import InvalidInput

MOST = 16
TILE = 160
"""Pixels of a view on the sheet."""
SHOWN = 8
"""Views of an orbit on the sheet, evenly around."""


def check_count(count: int) -> None:
    """InvalidInput for a number of variations that nobody could look through."""
    if not 1 <= count <= MOST:
        raise InvalidInput(f"{count} variations were asked for", f"1 to {MOST}")


def write_variations(
    picture_of: Callable[[int], Picture],
    options: Mapping[str, StageOptions],
    out: Path,
    seed: int,
    count: int,
) -> str:
    """Run matting and orbit for `count` seeds and write their pictures; returns what to do next.

    picture_of  seed -> the picture: a prompt is drawn anew for each
    out/variations.png  a row a seed; out/orbit_SEED.png  all views of it; out/variations.json
    The orbits stay in the store: `generate --seed SEED` with the same options goes on from there.
    """
    check_count(count)
    store = ArtifactStore()
    files, facts = {}, []
    with OutputFolder(out) as folder:
        with start_warm_up() as warm_up:
            for number in range(seed, seed + count):
                result = run_with_bars(
                    IMAGE_TO_ORBIT, {"picture": picture_of(number)}, options, number, store,
                    warm_up.before_stage,
                )  # fmt: skip
                files[number] = orbit_pictures(result.values["orbit"])
                orbit = result.reports[-1]
                facts.append({"seed": number, "seconds": orbit.seconds, "reused": orbit.reused})
        folder.publish(sheet(files, facts))
    return said(out, seed, count)


def said(out: Path, seed: int, count: int) -> str:
    """What was written, and what to do with it."""
    return (
        f"{out}: variations.png shows the orbits of seeds {seed} to {seed + count - 1}, a row each. "
        "To go on with one run the same command with --seed SEED and without --variations."
    )


ORBIT_FILE, ROW_FILE = "orbit.png", "row.png"


def orbit_pictures(views: Views) -> dict[str, bytes]:
    """All views of an orbit side by side, and a row of some of them, as PNG."""
    return {
        ORBIT_FILE: _png(np.concatenate([_tile(view) for view in views.rgba], axis=1)),
        ROW_FILE: _png(_row(views)),
    }


def sheet(pictures: Mapping[int, Mapping[str, bytes]], facts: list[dict[str, Any]]) -> dict[str, bytes]:
    """Of several seeds: what `write_variations` writes. pictures: seed -> `orbit_pictures`."""
    rows = [_read(files[ROW_FILE]) for files in pictures.values()]
    return {
        **{f"orbit_{seed}.png": files[ORBIT_FILE] for seed, files in pictures.items()},
        "variations.png": _encoded(np.concatenate(rows)),
        "variations.json": json.dumps({"variations": facts}, indent=2).encode(),
    }


def _read(png: bytes) -> np.ndarray:
    picture: Any = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return picture


def _row(views: Views) -> np.ndarray:
    chosen = np.linspace(0, len(views), min(SHOWN, len(views)), endpoint=False).astype(int)
    return np.concatenate([_tile(views.rgba[index]) for index in chosen], axis=1)


def _tile(rgba: np.ndarray) -> np.ndarray:
    """(TILE, TILE, 3) float32 on white."""
    small: Any = resize_rgba(rgba, TILE)
    return small[..., :3] * small[..., 3:] + (1 - small[..., 3:])


def _png(picture: np.ndarray) -> bytes:
    return _encoded(quantize(picture)[..., ::-1])


def _encoded(blue_first: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", blue_first)
    assert done
    return data.tobytes()
