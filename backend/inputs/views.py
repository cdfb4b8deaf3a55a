"""Reads posed views of one object: a folder with a camera file, or the film of a known orbit.

Camera files: nerfstudio's `transforms.json` (OpenGL camera-to-world in `transform_matrix`), or a
`cameras.json` whose frames hold `world_from_camera` (OpenCV), `camera_to_world` (OpenGL) or
`world_to_camera` (OpenCV, 3x4). Conventions are converted here and nowhere else.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from backend.geometry.eight_bit import EightBit
from backend.inputs.orbits import ORBITS, OrbitPreset, estimate_elevation
from backend.inputs.picture import read_picture
from backend.pipeline.values import Picture, Views, quantize
from shared_protocol.conventions import opencv_from_opengl
from shared_protocol.errors import InvalidInput, LimitExceeded

CAMERA_FILES = ("transforms.json", "cameras.json")
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
FILM_SUFFIXES = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif"}
MAX_VIEWS = 256
CODEC_NOISE = 0.06
"""What H.264 at crf 17, as in Hi3D's films, may change a channel of a white backdrop beside an outline."""

Cut = Callable[[Picture], Picture]
"""Cuts the object out of one picture that has no alpha channel."""


def read_views(
    path: Path,
    cut: Cut,
    *,
    orbit: str | None = None,
    elevation: float | None = None,
    frames: str = "frames",
) -> tuple[Views, dict[str, Any]]:
    """Views from a folder (pictures and camera file) or a film of a published orbit.

    orbit      name in ORBITS: the cameras are those of that model's orbit, in order of the frames
    elevation  degrees, with `orbit`; None estimates it from the silhouettes
    frames     the camera file's list to read ("heldout": views kept for judging)

    Returns the views and facts for the report. InvalidInput says what is missing.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidInput(f"{path} does not exist", "a folder of views or a film of an orbit")
    if orbit is not None:
        if orbit not in ORBITS:
            raise InvalidInput(f"the orbit '{orbit}' is unknown", "one of " + ", ".join(ORBITS))
        return _read_orbit(path, cut, ORBITS[orbit], elevation)
    if path.is_file() and path.suffix.lower() in FILM_SUFFIXES:
        raise InvalidInput(
            f"{path} is a film and says nothing about its cameras",
            "the name of the model that made the orbit",
            f"Add --orbit-cameras {'|'.join(ORBITS)}.",
        )
    camera_file = _camera_file(path)
    return _read_posed(camera_file, cut, frames), {"cameras": camera_file.name}


def _camera_file(path: Path) -> Path:
    if path.is_file() and path.suffix.lower() == ".json":
        return path
    for name in CAMERA_FILES:
        if path.is_dir() and (path / name).is_file():
            return path / name
    raise InvalidInput(
        f"{path} holds no camera file",
        " or ".join(CAMERA_FILES) + " beside the pictures",
        "Or name the model that made the orbit: --orbit-cameras " + "|".join(ORBITS) + ".",
    )


def has_frames(path: Path, key: str) -> bool:
    """Whether the camera file of a folder has such a list that is not empty."""
    return bool(_load(_camera_file(path)).get(key))


def _load(camera_file: Path) -> dict[str, Any]:
    try:
        data = json.loads(camera_file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("a JSON object is expected")
    except ValueError as error:
        raise InvalidInput(
            f"{camera_file} is not a camera file ({error})", "JSON with a list 'frames'"
        ) from None
    return data


def _read_posed(camera_file: Path, cut: Cut, key: str) -> Views:
    data = _load(camera_file)
    if key not in data:
        raise InvalidInput(f"{camera_file} is not a camera file ('{key}')", f"JSON with a list '{key}'")
    frames = data[key]
    if not isinstance(frames, list) or len(frames) < 2:
        raise InvalidInput(f"{camera_file} names fewer than two views", "at least two frames")
    if len(frames) > MAX_VIEWS:
        raise LimitExceeded(f"{camera_file} names {len(frames)} views", f"at most {MAX_VIEWS}")
    pictures, poses, intrinsics = [], [], []
    for number, frame in enumerate(frames):
        try:
            name = str(frame.get("file_path", frame.get("image")))
            pose = _pose(frame)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"frame {number} of {camera_file} has no usable pose ({error})",
                "'file_path' and 'transform_matrix' (4x4)",
            ) from None
        picture = _with_alpha(read_picture(_picture_path(camera_file.parent, name)), cut)
        height, width = picture.rgba.shape[:2]
        pictures.append(quantize(picture.rgba))
        poses.append(pose)
        intrinsics.append(_intrinsics(camera_file, {**data, **frame}, width, height))
    return _stack(pictures, np.stack(poses), np.stack(intrinsics))


def _picture_path(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_file():
        return path
    for suffix in sorted(PICTURE_SUFFIXES):
        if path.with_name(path.name + suffix).is_file():
            return path.with_name(path.name + suffix)
    return path


def _pose(frame: dict[str, Any]) -> np.ndarray:
    for key, opengl, inverse in (
        ("transform_matrix", True, False),
        ("camera_to_world", True, False),
        ("world_from_camera", False, False),
        ("world_to_camera", False, True),
    ):
        if key in frame:
            pose = np.eye(4)
            rows = np.asarray(frame[key], dtype=np.float64)
            pose[: rows.shape[0], :] = rows
            pose = np.linalg.inv(pose) if inverse else pose
            return opencv_from_opengl(pose) if opengl else pose
    raise KeyError("transform_matrix")


def _intrinsics(camera_file: Path, entry: dict[str, Any], width: int, height: int) -> np.ndarray:
    """Intrinsics of one frame, scaled when the file states them for another picture size."""
    if "K" in entry:
        matrix = np.asarray(entry["K"], dtype=np.float64)
    elif "fl_x" in entry:
        focal = float(entry["fl_x"])
        stated_w, stated_h = _stated_size(entry, width, height)
        matrix = np.array(
            [
                [focal, 0, float(entry.get("cx", stated_w / 2))],
                [0, float(entry.get("fl_y", focal)), float(entry.get("cy", stated_h / 2))],
                [0, 0, 1],
            ]
        )
    elif "camera_angle_x" in entry:
        return pinhole_intrinsics(np.degrees(float(entry["camera_angle_x"])), width, height)
    else:
        raise InvalidInput(f"{camera_file} states no focal length", "fl_x in pixels, or camera_angle_x")
    if any(abs(float(entry.get(key, 0) or 0)) > 1e-9 for key in ("k1", "k2", "k3", "p1", "p2")):
        raise InvalidInput(
            f"{camera_file} has lens distortion", "pinhole cameras", "Undistort the pictures first."
        )
    stated_w, stated_h = _stated_size(entry, width, height)
    return np.diag([width / stated_w, height / stated_h, 1.0]) @ matrix


def _stated_size(entry: dict[str, Any], width: int, height: int) -> tuple[float, float]:
    return float(entry.get("w", entry.get("width", width))), float(
        entry.get("h", entry.get("height", height))
    )


def _with_alpha(picture: Picture, cut: Cut) -> Picture:
    return picture if picture.rgba[..., 3].min() < 0.5 else cut(picture)


def _stack(pictures: list[np.ndarray], poses: np.ndarray, intrinsics: np.ndarray) -> Views:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        raise InvalidInput(f"the views have {len(sizes)} different sizes", "one size for all views")
    height, width = sizes.pop()
    for number, picture in enumerate(pictures):
        if picture[..., 3].max() < 128:
            raise InvalidInput(f"view {number} shows no object", "an object in every view")
    return Views(EightBit(np.stack(pictures)), Cameras(poses, intrinsics, width, height))


def _read_orbit(
    path: Path, cut: Cut, preset: OrbitPreset, elevation: float | None
) -> tuple[Views, dict[str, Any]]:
    pictures = [quantize(_with_alpha(picture, cut).rgba) for picture in _frames(path)]
    if len(pictures) != preset.views:
        raise InvalidInput(f"{path} has {len(pictures)} frames", f"the {preset.views} of {preset.name}")
    order = preset.front_first()
    rgba = EightBit(np.stack([pictures[i] for i in order]))
    del pictures
    height, width = rgba.shape[1:3]
    if elevation is None:
        elevation = estimate_elevation(rgba[..., 3], preset)
        origin = "estimated from the silhouettes"
    else:
        origin = "given"
    cameras = preset.cameras(elevation, width, height)
    facts = {
        "cameras": f"{preset.name}: {preset.views} views, fov {preset.fov:g} degrees, "
        f"radius {preset.radius:g}, azimuth counter-clockwise in steps of {360 / preset.views:g} degrees",
        "elevation": float(elevation),
        "elevation_origin": origin,
    }
    confidence = np.full(len(rgba), 0.7, dtype=np.float32)
    confidence[0] = 1.0
    return Views(rgba, cameras, confidence), facts


def _frames(path: Path) -> list[Picture]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise InvalidInput(f"{path} holds no pictures", "the frames of an orbit")
        return [read_picture(file) for file in files[: MAX_VIEWS + 1]]
    import av

    try:
        with av.open(str(path)) as film:
            frames = []
            for frame in film.decode(video=0):
                rgb = _without_codec_blocks(frame.to_ndarray(format="rgb24").astype(np.float32) / 255)
                frames.append(Picture(np.dstack([rgb, np.ones(rgb.shape[:2], dtype=np.float32)])))
                if len(frames) > MAX_VIEWS:
                    raise LimitExceeded(f"{path} has more than {MAX_VIEWS} frames", f"at most {MAX_VIEWS}")
    except (av.FFmpegError, IndexError) as error:
        raise InvalidInput(f"{path} cannot be read as a film ({error})", "a film of an orbit") from None
    return frames


def _without_codec_blocks(rgb: np.ndarray) -> np.ndarray:
    """The frame (H, W, 3) with what is almost its plain backdrop made exactly that.

    A film's codec leaves blocks of nearly the backdrop's colour along outlines, which a cut-out of an
    otherwise perfectly even backdrop would take for the object. An uneven backdrop is left alone.
    """
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    backdrop = np.median(border, axis=0)
    if np.mean(np.abs(border - backdrop).max(axis=1) < CODEC_NOISE / 2) < 0.9:
        return rgb
    near = np.abs(rgb - backdrop).max(axis=2) < CODEC_NOISE
    return np.where(near[..., None], backdrop, rgb).astype(np.float32)
