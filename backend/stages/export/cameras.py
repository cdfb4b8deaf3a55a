"""cameras.json: posed pictures in the `transforms.json` layout of nerfstudio."""

import json
from collections.abc import Sequence

from backend.geometry.cameras import Cameras
from shared_protocol.conventions import opengl_from_opencv


def transforms_json(cameras: Cameras, file_paths: Sequence[str]) -> bytes:
    """JSON with intrinsics in pixels and one OpenGL camera-to-world matrix a picture.

    Intrinsics stand at the top when all views share them, else in each frame (nerfstudio reads both).
    The world is Blender's: +Z up, metres, front toward -Y.
    """
    shared = bool((cameras.intrinsics == cameras.intrinsics[0]).all())
    poses = opengl_from_opencv(cameras.world_from_camera)
    document = {"camera_model": "PINHOLE", "w": cameras.width, "h": cameras.height}
    if shared:
        document |= _intrinsics(cameras, 0)
    frames = []
    for view, path in enumerate(file_paths):
        frame = {"file_path": path, "transform_matrix": poses[view].tolist()}
        frames.append(frame if shared else frame | _intrinsics(cameras, view))
    return (json.dumps(document | {"frames": frames}, indent=1) + "\n").encode()


def _intrinsics(cameras: Cameras, view: int) -> dict[str, float]:
    matrix = cameras.intrinsics[view]
    return {
        "fl_x": float(matrix[0, 0]),
        "fl_y": float(matrix[1, 1]),
        "cx": float(matrix[0, 2]),
        "cy": float(matrix[1, 2]),
    }
