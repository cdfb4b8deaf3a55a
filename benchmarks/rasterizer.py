"""Speed of the CPU Gaussian rasteriser, forward and backward, next to GSplat's torch code and OpenSplat.

    python -m benchmarks.rasterizer                        all scenes, SH degree 0 and 3, against torch
    python -m benchmarks.rasterizer --opensplat CHECKOUT   and against OpenSplat's CPU code
    python -m benchmarks.rasterizer --scenes 50k@512 --anchors 50k@512

The scene is a bumpy ball of flat Gaussians seen from 3.5 m. The figure is CPU milliseconds, process time
over all threads: on a busy machine wall time says little; on idle cores wall time is about CPU time over
cores. Ratios compare the smallest of several calls. `peak` is what a call adds to the memory in use.
`of FMA peak`: 78 useful flop a blended pair (30 forward, 48 backward; Gaussians seen by no pixel, sorting
and projection count nothing) over the CPU time of the whole call, as a share of the rate of fused
multiply-adds that one core reached in the same run.
The last line is JSON; its figures without a scene are those of 50k@512, SH degree 0.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP threads that spin count as CPU time

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.geometry.cameras import ring
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_raster import Gaussians, render_gaussians
from benchmarks.fma_peak import fma_peak

SCENES = {
    "10k@256": (10_000, 256),
    "50k@512": (50_000, 512),
    "200k@512": (200_000, 512),
}
FLOP_A_PAIR = 78


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


@dataclass(frozen=True)
class Cost:
    """CPU-ms of the calls, sorted by nothing; bytes added to the peak of memory by the first."""

    forward: np.ndarray
    backward: np.ndarray
    memory: int

    @property
    def both(self) -> float:
        """Smallest forward plus smallest backward."""
        return float(self.forward.min() + self.backward.min())

    @property
    def median(self) -> float:
        """Median of forward plus backward."""
        return float(np.median(self.forward + self.backward))


def measured(forward: Callable[[], object], backward: Callable[[object], object], repeats: int) -> Cost:
    """Times of `repeats` rounds after one that compiles."""
    backward(forward())
    before = _reset_peak()
    times = np.empty((repeats, 2))
    for i in range(repeats):
        start = time.process_time()
        rendering = forward()
        middle = time.process_time()
        backward(rendering)
        times[i] = middle - start, time.process_time() - middle
    return Cost(1000 * times[:, 0], 1000 * times[:, 1], _peak() - before)


def _reset_peak() -> int:
    """Linux forgets the peak of resident memory; elsewhere the peak so far. Bytes in use."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Scene:
    """Arrays of the Gaussians, one camera, the gradient that comes back."""

    arrays: list[np.ndarray]
    pose: np.ndarray
    intrinsics: np.ndarray
    size: int
    upstream: np.ndarray

    @classmethod
    def named(cls, name: str, degree: int) -> "Scene":
        count, size = SCENES[name]
        cameras = ring(12, radius=3.5, elevation_degrees=15, fov_degrees=40, size=size)
        upstream = (np.random.default_rng(1).random((4, size, size)) - 0.5).astype(np.float32)
        arrays = ball(count, (degree + 1) ** 2)
        return cls(arrays, cameras.world_from_camera[1], cameras.intrinsics[1], size, upstream)


def ours(scene: Scene, repeats: int, kernels: str = "auto") -> Cost:
    gaussians = Gaussians(*scene.arrays)
    given = (scene.pose, scene.intrinsics, scene.size, scene.size, np.ones(3))
    return measured(
        lambda: render_gaussians(gaussians, *given, kernels=kernels),
        lambda rendering: rendering.backward(scene.upstream),
        repeats,
    )


def in_torch(scene: Scene, render: Callable[..., object], repeats: int) -> Cost:
    """`render`(tensors, pose, intrinsics, size) -> (size, size, 3 or 4), through autograd."""
    import torch

    tensors = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in scene.arrays]
    upstream = torch.from_numpy(scene.upstream).permute(1, 2, 0)
    return measured(
        lambda: render(tensors, scene.pose, scene.intrinsics, scene.size),
        lambda image: (image * upstream[..., : image.shape[2]]).sum().backward(),
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=SCENES)
    parser.add_argument("--anchors", nargs="*", choices=SCENES, help="against the others (default: all)")
    parser.add_argument("--opensplat", type=Path, help="a checkout of OpenSplat (or $OPENSPLAT)")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    from benchmarks import gsplat_torch

    checkout = options.opensplat or (Path(os.environ["OPENSPLAT"]) if "OPENSPLAT" in os.environ else None)
    opensplat = None
    if checkout:
        from benchmarks import opensplat

        module = opensplat.build(checkout)
    peak = fma_peak()
    _line(f"FMA peak of one core: {peak / 1e9:.1f} GFLOP/s")
    scenes = {}
    for name in (name for name in SCENES if name in options.scenes):
        for degree in (0, 3):
            scene = Scene.named(name, degree)
            cost = ours(scene, options.repeats)
            pairs = gsplat_torch.blended_pairs(scene.arrays, scene.pose, scene.intrinsics, scene.size)
            share = FLOP_A_PAIR * pairs / (cost.both / 1000) / peak
            row = {
                "forward": cost.forward.min(), "backward": cost.backward.min(), "median": cost.median,
                "peak_mb": cost.memory / 1e6, "pairs": pairs, "fraction_of_fma_peak": share,
                "vs_gsplat_torch": None, "vs_opensplat": None,
            }  # fmt: skip
            _line(f"{name} SH{degree}   {pairs / 1e6:.2f} M pairs, {100 * share:.1f} % of FMA peak")
            _show("ours", cost, cost)
            if options.anchors is None or name in options.anchors:
                anchor = in_torch(scene, gsplat_torch.render, 3)
                row["vs_gsplat_torch"] = anchor.both / cost.both
                _show("GSplat, torch", anchor, cost)
                if opensplat:
                    anchor = in_torch(scene, lambda *given: opensplat.render(module, *given), 3)
                    row["vs_opensplat"] = anchor.both / cost.both
                    _show("OpenSplat", anchor, cost)
            scenes[f"{name} SH{degree}"] = {
                key: round(float(value), 3) if value is not None else None for key, value in row.items()
            }
    keys = ("vs_gsplat_torch", "vs_opensplat", "fraction_of_fma_peak")
    summary = {key: scenes.get("50k@512 SH0", {}).get(key) for key in keys}
    _line(json.dumps(summary | {"gflops_peak": round(peak / 1e9, 1), "unit": "cpu_ms", "scenes": scenes}))


def _show(name: str, cost: Cost, unit: Cost) -> None:
    _line(
        f"  {name:14} forward {cost.forward.min():8.1f}  backward {cost.backward.min():8.1f}  "
        f"sum {cost.both:8.1f}  median {cost.median:8.1f} CPU-ms  {cost.both / unit.both:6.1f} x  "
        f"peak {cost.memory / 1e6:7.1f} MB"
    )


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
