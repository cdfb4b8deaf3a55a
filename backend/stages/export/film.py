"""turntable.mp4: one turn around the result, mesh on the left, Gaussians on the right."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from backend.geometry.mesh_render import render_mesh
from backend.geometry.parallel import map_told
from backend.geometry.rasterize import rasterize
from backend.pipeline.values import Splats, TexturedMesh, Views, quantize
from backend.stages.export.viewpoints import around_object, front_elevation

FRAME_RATE = 24
SIZE = 448
_BACKGROUND = (0.886, 0.886, 0.878)
_LEAST_ELEVATION = 10.0
_BT709 = 1
_LIMITED_RANGE = 1


def turntable_frames(
    views: Views,
    splats: Splats,
    textured: TexturedMesh,
    frames: int,
    on_frame: Callable[[int], None] = lambda frame: None,
) -> Iterable[np.ndarray]:
    """Yields (448, 896, 3) uint8 frames of a full turn, drawn some at a time; `on_frame(i)` is called before
    each."""
    mesh = textured.mesh
    front = views.cameras.take([0])
    elevation = max(front_elevation(mesh.vertices, front), _LEAST_ELEVATION)
    turns = [(360.0 * frame / frames, elevation) for frame in range(frames)]
    cameras = around_object(mesh.vertices, front, turns, SIZE)

    def draw(frame: int) -> np.ndarray:
        camera = cameras.take([frame])
        left = render_mesh(
            mesh.vertices, mesh.faces, textured.uvs, textured.texture, camera, background=_BACKGROUND
        )[0, ..., :3]
        right = rasterize(
            splats, camera, background=_BACKGROUND, antialiased=splats.antialiased, differentiable=False
        ).color[0]
        return quantize(np.concatenate([left, right], axis=1))

    yield from map_told(draw, range(frames), on_frame)


def encode_film(frames: Iterable[np.ndarray]) -> bytes:
    """H.264 in MP4 that every player and browser takes (yuv420p, index first).

    frames (H, W, 3) uint8, even sizes. One encoder thread and no tags, so the bytes depend on the
    frames (and the encoder's version) only.
    """
    import av

    with tempfile.TemporaryDirectory(prefix="orrery-film-") as folder:
        # The index can only be moved to the front of a real file.
        path = Path(folder) / "film.mp4"
        container = av.open(
            str(path), "w", format="mp4", options={"movflags": "faststart", "fflags": "+bitexact"}
        )
        with container:
            stream = container.add_stream(
                "libx264", rate=FRAME_RATE, options={"crf": "18", "preset": "veryfast", "threads": "1"}
            )
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.thread_count = 1
            codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
            codec.color_range = _LIMITED_RANGE
            for pixels in frames:
                if not codec.is_open:
                    codec.height, codec.width = pixels.shape[:2]
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()
