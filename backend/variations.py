"""Orbits of several seeds, to choose one before anything is reconstructed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.geometry.images import resize_rgba
from backend.local_run import run_with_bars
from backend.output import OutputFolder
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import StageOptions
from backend.pipeline.recipes import MATTING, ORBIT
from backend.pipeline.values import Picture, Views, quantize
from backend.warmup import start_warm_up
from shared_protocol.errors import InvalidInput

MOST = 16
TILE = 160
"""Pixels of a view on the sheet."""
SHOWN = 8
"""Views of an orbit on the sheet, evenly around."""


def write_variations(
    picture: Picture, options: Mapping[str, StageOptions], out: Path, seed: int, count: int
) -> str:
    """Run matting and orbit for `count` seeds and write their pictures; returns what to do next.

    out/variations.png  a row a seed; out/orbit_SEED.png  all views of it; out/variations.json
    The orbits stay in the store: `generate --seed SEED` with the same options goes on from there.
    """
    if not 1 <= count <= MOST:
        raise InvalidInput(f"{count} variations were asked for", f"1 to {MOST}")
    store = ArtifactStore()
    rows, files, facts = [], {}, []
    with OutputFolder(out) as folder:
        with start_warm_up() as warm_up:
            for number in range(seed, seed + count):
                result = run_with_bars(
                    (MATTING, ORBIT), {"picture": picture}, options, number, store, warm_up.before_stage
                )
                views: Views = result.values["orbit"]
                rows.append(_row(views))
                files[f"orbit_{number}.png"] = _png(np.concatenate([_tile(v) for v in views.rgba], axis=1))
                orbit = result.reports[-1]
                facts.append({"seed": number, "seconds": orbit.seconds, "reused": orbit.reused})
        files["variations.png"] = _png(np.concatenate(rows))
        files["variations.json"] = json.dumps({"variations": facts}, indent=2).encode()
        folder.publish(files)
    return (
        f"{out}: variations.png shows the orbits of seeds {seed} to {seed + count - 1}, a row each. "
        "To go on with one run the same command with --seed SEED and without --variations."
    )


def _row(views: Views) -> np.ndarray:
    chosen = np.linspace(0, len(views), min(SHOWN, len(views)), endpoint=False).astype(int)
    return np.concatenate([_tile(views.rgba[index]) for index in chosen], axis=1)


def _tile(rgba: np.ndarray) -> np.ndarray:
    """(TILE, TILE, 3) float32 on white."""
    small: Any = resize_rgba(rgba, TILE)
    return small[..., :3] * small[..., 3:] + (1 - small[..., 3:])


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", quantize(picture)[..., ::-1])
    assert done
    return data.tobytes()
