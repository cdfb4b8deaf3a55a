"""antimatter15's .splat: 32 bytes a Gaussian, no header, no harmonics above degree 0.

    position float32 x3 | scale float32 x3, activated | r g b opacity, bytes | quaternion wxyz, bytes

A byte of the quaternion is 128 + 128 q. Files are written most important first (volume times opacity),
so that a viewer shows the scene before all is loaded. The numbers are taken as a PLY's are.
Source: antimatter15/splat, README.md, convert.py and main.js.
"""

import numpy as np

from shared_protocol.errors import InvalidInput
from shared_protocol.splats.arrays import SH0, StoredSplats, activate, logits_of

RECORD = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])
_SMALLEST_SCALE = 1e-30


def importance_order(stored: StoredSplats) -> np.ndarray:
    """(G,) indices, the largest product of scales and opacity first; equal ones stay in order."""
    with np.errstate(over="ignore"):
        opacity_log = -np.logaddexp(0, -stored.logits.astype(np.float64))
    return np.argsort(-(stored.log_scales.sum(axis=1, dtype=np.float64) + opacity_log), kind="stable")


def write_dot_splat(stored: StoredSplats) -> list[bytes]:
    """The parts of the file. Lost are half a step of colour (clipped to 0..1) and opacity, 1/510, and up to
    1/128 of each quaternion component."""
    splats = activate(stored)
    order = importance_order(stored)
    rows = np.empty(stored.count, dtype=RECORD)
    rows["position"] = splats.positions[order]
    rows["scale"] = splats.scales[order]
    color = np.concatenate([0.5 + SH0 * splats.harmonics[:, 0], splats.opacities[:, None]], axis=1)
    rows["color"] = np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)[order]
    rows["rotation"] = np.clip(np.rint(splats.rotations * 128 + 128), 0, 255).astype(np.uint8)[order]
    return [rows.tobytes()]


def looks_like_dot_splat(data: bytes | memoryview) -> bool:
    """Whole records, and the first thousand of them hold sensible numbers; the format has no magic."""
    if not len(data) or len(data) % RECORD.itemsize:
        return False
    rows = np.frombuffer(data[: 1000 * RECORD.itemsize], RECORD)
    lengths = np.abs(rows["rotation"].astype(np.float32) - 128).max(axis=1)
    return bool(
        np.isfinite(rows["position"]).all()
        and (rows["scale"] >= 0).all()
        and (rows["scale"] < 1e9).all()
        and (np.abs(rows["position"]) < 1e9).all()
        # The largest component of a unit quaternion is at least 1/2.
        and (lengths >= 60).all()
    )


def read_dot_splat(data: bytes | memoryview) -> StoredSplats:
    """Raises InvalidInput when the size is not a whole number of records."""
    if len(data) % RECORD.itemsize:
        raise InvalidInput(
            f"the .splat has {len(data)} bytes",
            f"a multiple of {RECORD.itemsize}",
            "Copy or download the file again.",
        )
    rows = np.frombuffer(data, RECORD)
    color = rows["color"].astype(np.float64) / 255
    with np.errstate(invalid="ignore", divide="ignore"):
        log_scales = np.log(np.where(rows["scale"] == 0, np.float32(_SMALLEST_SCALE), rows["scale"]))
    return StoredSplats(
        rows["position"].astype(np.float32),
        log_scales.astype(np.float32),
        (rows["rotation"].astype(np.float32) - 128) / 128,
        logits_of(color[:, 3]),
        ((color[:, :3] - 0.5) / SH0).astype(np.float32)[:, None],
    )
