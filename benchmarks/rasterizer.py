"""Speed of the CPU Gaussian rasteriser, forward and backward, next to plain torch code.

    python -m benchmarks.rasterizer                 the three scenes at SH degree 0 and 3
    python -m benchmarks.rasterizer --torch 50k@512 the torch code on that scene instead of the small one

The scene is a bumpy ball of flat Gaussians seen from 3.5 m. The figure is CPU milliseconds (process time
over all threads, smallest of several calls): on a busy machine wall time says little; on idle cores wall
time is about CPU time over cores. The torch code is the oracle of the tests: GSplat's own projection and
harmonics, and compositing written out in tiles of 16 pixels with autograd (minutes on the largest scenes).
The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import ring
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_raster import Gaussians, render_gaussians

SCENES = {
    "10k@256": (10_000, 256),
    "50k@512": (50_000, 512),
    "200k@512": (200_000, 512),
}


def ball(count: int, coefficients: int) -> list[np.ndarray]:
    """Arrays of `Gaussians`: on a bumpy unit ball, flat, quaternions not normalised, seed 0."""
    random = np.random.default_rng(0)
    normals = random.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    radius = 1 + 0.1 * np.sin(5 * normals[:, 0]) * np.cos(4 * normals[:, 1] + 2 * normals[:, 2])
    positions = normals * (radius * (1 + 0.004 * random.normal(size=count)))[:, None]
    scales = 0.75 * np.sqrt(4 * np.pi / count) * np.exp(0.45 * random.normal(size=(count, 3)))
    scales[:, 2] *= np.exp(-1.7)
    w, x, y, _ = quaternions_to_axis_z(normals).astype(np.float64).T
    half = random.uniform(0, np.pi, count)
    c, s = np.cos(half), np.sin(half)
    rotations = np.stack([w * c, x * c + y * s, y * c - x * s, w * s], axis=1)
    rotations *= random.uniform(0.5, 2, (count, 1))
    logits = np.where(random.random(count) < 0.7, random.normal(2.5, 1, count), random.normal(-1, 1.2, count))
    harmonics = random.normal(0, 0.06, (count, coefficients, 3))
    harmonics[:, 0] = np.sin(normals * (3, 4, 5) + (0, 1, 0))
    return [positions, scales, rotations, 1 / (1 + np.exp(-logits)), harmonics]


def smallest_cpu_ms(function: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of the quickest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def ours(count: int, size: int, coefficients: int, repeats: int) -> tuple[float, float]:
    """CPU-ms forward and backward."""
    cameras = ring(12, radius=3.5, elevation_degrees=15, fov_degrees=40, size=size)
    gaussians = Gaussians(*ball(count, coefficients))
    arguments = (cameras.world_from_camera[1], cameras.intrinsics[1], size, size, np.ones(3))
    upstream = (np.random.default_rng(1).random((4, size, size)) - 0.5).astype(np.float32)
    rendering = render_gaussians(gaussians, *arguments)
    rendering.backward(upstream)  # compiled now
    forward = smallest_cpu_ms(lambda: render_gaussians(gaussians, *arguments), repeats)
    return forward, smallest_cpu_ms(lambda: rendering.backward(upstream), repeats)


def plain_torch(count: int, size: int, coefficients: int) -> float:
    """CPU-ms forward and backward of the torch code."""
    import torch

    from tests.support import torch_splats

    torch.set_num_threads(1)  # more threads spin while they wait, and that counts as CPU time
    cameras = ring(12, radius=3.5, elevation_degrees=15, fov_degrees=40, size=size)
    tensors = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in ball(count, coefficients)]
    pose, intrinsics = cameras.world_from_camera[1], cameras.intrinsics[1]

    def both() -> None:
        image = torch_splats.render(*tensors, pose, intrinsics, size, size, np.ones(3), 16)
        (image - 0.5).sum().backward()

    return smallest_cpu_ms(both, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=SCENES)
    parser.add_argument("--torch", nargs="*", default=["10k@256"], choices=SCENES, help="also in torch")
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    results = {}
    scenes = [name for name in SCENES if name in options.scenes or name in options.torch]
    for name in scenes:
        for degree in (0, 3):
            forward, backward = ours(*SCENES[name], (degree + 1) ** 2, options.repeats)
            result = {"forward": round(forward, 1), "backward": round(backward, 1)}
            line = f"{name:9} SH{degree}  forward {forward:7.1f}  backward {backward:7.1f} CPU-ms"
            if name in options.torch:
                reference = plain_torch(*SCENES[name], (degree + 1) ** 2)
                result |= {"torch": round(reference, 1), "ratio": round(reference / (forward + backward), 1)}
                line += f"  torch {reference:9.1f}  ratio {result['ratio']}"
            results[f"{name} SH{degree}"] = result
            sys.stdout.write(line + "\n")
    sys.stdout.write(json.dumps({"benchmark": "rasterizer", "unit": "cpu_ms", "results": results}) + "\n")


if __name__ == "__main__":
    main()
