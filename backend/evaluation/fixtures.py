"""Recorded outputs of reference code, as they lie in NPZ files: what a fixture says of itself.

A fixture holds `meta` (JSON: the configuration), inputs `in_*` and outputs under plain names. Weights follow
from the parameters' published names alone (`rule_weight`). What a file does not hold it tells in words or by
its configuration: inputs, frames of a sample, numbers, guidance.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_protocol.errors import InvalidInput

if TYPE_CHECKING:
    from backend.models.sampling import Guidance

Fixture = Mapping[str, np.ndarray]


def read_fixture(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of itself, and its arrays, with the inputs that it tells in words or by the rule.

    Raises ValueError where it is no fixture, and whatever NumPy and JSON raise on a damaged file.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole NPZ archive")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "meta" not in arrays:
        raise ValueError("it holds no meta, which says what it is")
    meta = json.loads(bytes(arrays.pop("meta")))
    arrays = spoken_inputs(meta) | arrays
    return meta, arrays | ruled_inputs(meta, arrays)


def rule_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The fixtures' float32 weight of a published parameter name."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    if name.endswith("weight"):
        return 1 + np.float32(0.1) * values
    return values if name.endswith(("mix_factor", "alpha")) else np.float32(0.1) * values


def spoken_inputs(meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inputs that a fixture gives in words, NAME=rnd('seed', shape), as `in_NAME`."""
    found = re.findall(r"(\w+)=rnd\('(\w+)',([\d,]+)\)", str(meta.get("inputs", "")).replace(" ", ""))
    spoken = {}
    for name, seed, shape in found:
        random = np.random.RandomState(zlib.crc32(seed.encode()))
        spoken[f"in_{name}"] = random.standard_normal([int(n) for n in shape.strip(",").split(",")])
    return spoken


def _given(name: str, *shape: int) -> np.ndarray:
    """An input that a fixture does not hold, by the rule that made it."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def ruled_inputs(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    """Inputs of a UNet's or an autoencoder's fixture that holds none: `in_NAME` by the rule, named NAME.

    Shapes follow from the configuration and the outputs; empty where inputs are there, or where they do not.
    """
    config = meta.get("cfg")
    if not isinstance(config, dict) or any(name.startswith("in_") for name in fixture):
        return {}
    if "adm_in_channels" in config and "out" in fixture and "steps" not in meta:
        rows, _, height, width = fixture["out"].shape
        samples = int(meta["B"]) if "B" in meta else rows // frames_of(meta, rows, rows)
        vectors = rows if meta.get("perframe") else samples
        return {
            "in_x": _given("x", rows, config["in_channels"], height, width),
            "in_ts": _given("ts", samples),
            "in_ctx": _given("ctx", samples, int(meta.get("tokens", 1)), config["context_dim"]),
            "in_y": _given("y", vectors, config["adm_in_channels"]),
        }
    found = {}
    if "ch_mult" in config:
        factor = 2 ** (len(config["ch_mult"]) - 1)
        if "enc" in fixture:
            rows, _, height, width = fixture["enc"].shape
            found["in_img"] = _given(
                "img", rows, config.get("in_channels", 3), height * factor, width * factor
            )
        decoded = next((fixture[name] for name in ("dec", "vdec") if name in fixture), None)
        if decoded is not None:
            rows, _, height, width = decoded.shape
            found["in_z"] = _given("z", rows, config["z_channels"], height // factor, width // factor)
    return found


def frames_of(meta: Mapping[str, Any], rows: int, default: int) -> int:
    """Frames of a sample: what the fixture says, else `default`."""
    frames = int(
        next((meta[n] for n in ("T", "frames", "num_frames", "num_video_frames") if n in meta), default)
    )
    if frames < 1 or rows % frames:
        raise InvalidInput(f"{rows} pictures do not divide into samples of {frames} frames", "whole samples")
    return frames


def number_after(text: str, pattern: str, default: float) -> float:
    """The number that follows a pattern, with or without an equals sign between them."""
    found = re.search(pattern + r"\s*=?\s*([-+0-9.eE]*\d)", text)
    return float(found[1]) if found else default


_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
GUIDANCES = {
    "linear": "linear",
    "triangle": "triangle",
    "constant": "constant",
    "vanilla": "constant",
    "cfg": "constant",
}
"""Names of a sampler's outputs -> guidance."""


def guidance_in(text: str, name: str) -> "Guidance":
    """A guidance in words or JSON: "linear 1.0 to 2.5", "triangle max 2.5", "constant 3.5"."""
    from backend.models.sampling import Guidance

    kind = GUIDANCES[name]
    stop = rf"\b(?:{'|'.join(GUIDANCES)}|sigma_\w+)\b|;|\"(?!min|max)\w+\":|$"
    said = re.search(rf"\b{name}\b\"?:?(.*?)(?={stop})", text)
    words = said[1] if said else ""
    least, most = (re.search(rf"{end}\w*\W*({_NUMBER})", words) for end in ("min", "max"))
    numbers = [float(number) for number in re.findall(_NUMBER, words)]
    if not (least or most) and len(numbers) == 2:
        return Guidance(kind, *numbers)
    if kind == "constant" and len(numbers) == 1:
        return Guidance(kind, last=numbers[0])
    if len(numbers) == 1 or least or most:
        first = float(least[1]) if least else 1.0
        return Guidance(kind, first, float(most[1]) if most else (numbers[0] if not least else 2.5))
    if kind == "constant":
        raise InvalidInput(f"the fixture does not say how strong '{name}' is", "a number behind its name")
    return Guidance(kind)
