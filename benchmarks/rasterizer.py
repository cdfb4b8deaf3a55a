"""Speed of the CPU Gaussian rasteriser, forward and backward, next to GSplat's torch code and OpenSplat.

    python -m benchmarks.rasterizer                        all scenes, SH degree 0 and 3, against torch
    python -m benchmarks.rasterizer --opensplat CHECKOUT   and against OpenSplat's CPU code
    python -m benchmarks.rasterizer --scenes 50k@512 --anchors 50k@512
    python -m benchmarks.rasterizer --scenes --scaling plot.png      cost against Gaussians and pixels

The scene is a bumpy ball of flat Gaussians seen from 3.5 m. The figure is CPU milliseconds, process time
over all threads: on a busy machine wall time says little; on idle cores wall time is about CPU time over
cores. Ratios compare the smallest of several calls. `memory` is what forward and backward add to the peak
of a process that has drawn nothing but a small scene before.
`of FMA peak`: 78 useful flop a blended pair (30 forward, 48 backward; Gaussians seen by no pixel, sorting
and projection count nothing) over the CPU time of the whole call, as a share of the rate of fused
multiply-adds that one core reached in the same run.
The last line is JSON; its figures without a scene are those of 50k@512, SH degree 0.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP threads that spin count as CPU time
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python benchmarks/rasterizer.py` runs

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

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
    """CPU-ms of the calls (repeats,), forward and backward."""

    forward: np.ndarray
    backward: np.ndarray

    @property
    def both(self) -> float:
        """Smallest forward plus smallest backward."""
        return float(self.forward.min() + self.backward.min())

    @property
    def median(self) -> float:
        """Median of forward plus backward."""
        return float(np.median(self.forward + self.backward))


def measured(forward: Callable[[], object], backward: Callable[[object], object], repeats: int) -> Cost:
    """Times of `repeats` rounds, after one that compiles."""
    backward(forward())
    times = np.empty((repeats, 2))
    for i in range(repeats):
        start = time.process_time()
        rendering = forward()
        middle = time.process_time()
        backward(rendering)
        times[i] = middle - start, time.process_time() - middle
    return Cost(1000 * times[:, 0], 1000 * times[:, 1])


@dataclass(frozen=True)
class Scene:
    """Arrays of the Gaussians, one camera, the gradient that comes back (4, height, width)."""

    arrays: list[np.ndarray]
    pose: np.ndarray
    intrinsics: np.ndarray
    width: int
    height: int
    upstream: np.ndarray

    @classmethod
    def of(cls, count: int, degree: int, width: int, height: int) -> "Scene":
        cameras = ring(12, radius=3.5, elevation_degrees=15, fov_degrees=40, size=height)
        intrinsics = cameras.intrinsics[1].copy()
        intrinsics[0, 2] = width / 2
        upstream = (np.random.default_rng(1).random((4, height, width)) - 0.5).astype(np.float32)
        return cls(
            ball(count, (degree + 1) ** 2), cameras.world_from_camera[1], intrinsics, width, height, upstream
        )

    @classmethod
    def named(cls, name: str, degree: int) -> "Scene":
        count, size = SCENES[name]
        return cls.of(count, degree, size, size)

    @property
    def size(self) -> int:
        """Of a square picture, as the anchors want it."""
        return self.height


def ours(scene: Scene, repeats: int, kernels: str = "auto") -> Cost:
    gaussians = Gaussians(*scene.arrays)
    given = (scene.pose, scene.intrinsics, scene.width, scene.height, np.ones(3))
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


def anchor(name: str, checkout: Path | None) -> Callable[..., object]:
    """The function of one of the others, for `in_torch`."""
    if name == "gsplat":
        from benchmarks import gsplat_torch

        return gsplat_torch.render
    from benchmarks import opensplat

    module = opensplat.build(checkout)
    return lambda *given: opensplat.render(module, *given)


def memory(what: str, scene: str, degree: int, checkout: Path | None) -> int:
    """Bytes that forward and backward of one scene add to the peak, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", what, scene, str(degree)]
    command += ["--opensplat", str(checkout)] if checkout else []
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def memory_here(what: str, scene: Scene, checkout: Path | None) -> int:
    """As `memory`, in this process. Linux only (0 elsewhere): nothing else forgets its peak."""
    run = ours if what == "ours" else lambda *given: in_torch(given[0], anchor(what, checkout), given[1])
    run(Scene.of(100, 0, 64, 64), 1)
    if not Path("/proc/self/clear_refs").exists():
        return 0
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    run(scene, 1)
    return _peak() - before


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def scaling(path: Path) -> dict[str, list]:
    """Cost against Gaussians and against pixels, as a table and as a picture at `path`."""
    table = {"gaussians": [], "pixels": []}
    for count in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        cost = ours(Scene.of(count, 0, 512, 512), 3)
        table["gaussians"].append((count, round(float(cost.forward.min()), 1), round(cost.both, 1)))
        _line(f"{count:9,} Gaussians at 512x512    forward {cost.forward.min():7.1f}  both {cost.both:7.1f}")
    for width, height in ((256, 256), (512, 512), (1024, 1024), (1536, 1536), (2048, 2048)):
        cost = ours(Scene.of(50_000, 0, width, height), 3)
        table["pixels"].append((width * height, round(float(cost.forward.min()), 1), round(cost.both, 1)))
        size = f"{width}x{height}"
        _line(f"   50,000 Gaussians at {size:9}  forward {cost.forward.min():7.1f}  both {cost.both:7.1f}")
    cost = ours(Scene.of(1_000_000, 0, 1920, 1080), 3)
    table["million_hd"] = [round(float(cost.forward.min()), 1), round(cost.both, 1)]
    _line(f"1,000,000 Gaussians at 1920x1080  forward {cost.forward.min():7.1f}  both {cost.both:7.1f}")
    _plot(path, table)
    return table


def _plot(path: Path, table: dict[str, list]) -> None:
    """Two log-log panels with the measured points and, thin, the line of exact proportion."""
    panel, margin = 420, 70
    picture = Image.new("RGB", (2 * (panel + margin) + margin, panel + 2 * margin), "white")
    draw = ImageDraw.Draw(picture)
    titles = {"gaussians": "Gaussians, at 512x512", "pixels": "pixels, 50,000 Gaussians"}
    for number, (key, title) in enumerate(titles.items()):
        points = np.array(table[key], dtype=float)
        x, left = np.log10(points[:, 0]), margin + number * (panel + margin)
        low_x, low_y = np.floor(x.min()), 0.0
        decades = max(np.ceil(x.max()) - low_x, np.ceil(np.log10(points[:, 2].max())))

        def place(px: float, py: float) -> tuple[float, float]:
            scale = panel / decades  # noqa: B023
            return left + (px - low_x) * scale, margin + panel - (py - low_y) * scale  # noqa: B023

        for decade in range(int(decades) + 1):
            for line in (
                (place(low_x + decade, 0), place(low_x + decade, decades)),
                (place(low_x, decade), place(low_x + decades, decade)),
            ):
                draw.line(line, fill=(225, 225, 225))
            draw.text(
                (place(low_x + decade, 0)[0] - 8, margin + panel + 6), f"1e{int(low_x) + decade}", "black"
            )
            draw.text((left - 40, place(low_x, decade)[1] - 6), f"{10**decade:g} ms", "black")
        draw.text((left + panel / 3, margin + panel + 26), title, "black")
        for column, color, name in ((1, (40, 110, 200), "forward"), (2, (200, 70, 40), "forward + backward")):
            y = np.log10(points[:, column])
            ideal = y[-1] + x - x[-1]
            draw.line([place(*p) for p in zip(x, ideal, strict=True) if p[1] > 0], fill=(190, 190, 190))
            track = [place(*p) for p in zip(x, y, strict=True)]
            draw.line(track, fill=color, width=2)
            for px, py in track:
                draw.ellipse((px - 4, py - 4, px + 4, py + 4), fill=color)
            draw.text((left + 10, margin + 4 + 16 * (column - 1)), name, color)
    draw.text((margin, 20), "CPU-ms of a picture; grey: exactly proportional", "black")
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=SCENES)
    parser.add_argument("--anchors", nargs="*", choices=SCENES, help="against the others (default: all)")
    parser.add_argument("--opensplat", type=Path, help="a checkout of OpenSplat (or $OPENSPLAT)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--scaling", type=Path, metavar="PNG", help="cost against Gaussians and pixels")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    checkout = options.opensplat or (Path(os.environ["OPENSPLAT"]) if "OPENSPLAT" in os.environ else None)
    if options.memory_of:
        what, name, degree = options.memory_of
        _line(str(memory_here(what, Scene.named(name, int(degree)), checkout)))
        return
    others = {"gsplat": "GSplat, torch"} | ({"opensplat": "OpenSplat"} if checkout else {})
    peak = fma_peak()
    _line(f"FMA peak of one core: {peak / 1e9:.1f} GFLOP/s")
    scenes = {}
    for name in (name for name in SCENES if name in options.scenes):
        for degree in (0, 3):
            row = compare(name, degree, options, others, checkout, peak)
            scenes[f"{name} SH{degree}"] = {
                key: round(float(value), 3) if value is not None else None for key, value in row.items()
            }
    keys = ("vs_gsplat_torch", "vs_opensplat", "fraction_of_fma_peak")
    summary = {key: scenes.get("50k@512 SH0", {}).get(key) for key in keys}
    summary |= {"gflops_peak": round(peak / 1e9, 1), "unit": "cpu_ms", "scenes": scenes}
    if options.scaling:
        summary["scaling"] = scaling(options.scaling)
    _line(json.dumps(summary))


def compare(
    name: str,
    degree: int,
    options: argparse.Namespace,
    others: dict[str, str],
    checkout: Path | None,
    peak: float,
) -> dict[str, float | None]:
    """One scene: ours, and the others where they are asked for."""
    from benchmarks import gsplat_torch

    scene = Scene.named(name, degree)
    cost = ours(scene, options.repeats)
    pairs = gsplat_torch.blended_pairs(scene.arrays, scene.pose, scene.intrinsics, scene.size)
    share = FLOP_A_PAIR * pairs / (cost.both / 1000) / peak
    _line(f"{name} SH{degree}   {pairs / 1e6:.2f} M pairs, {100 * share:.1f} % of FMA peak")
    bytes_added = memory("ours", name, degree, checkout)
    _show("ours", cost, cost, bytes_added)
    row = {
        "forward": cost.forward.min(), "backward": cost.backward.min(), "median": cost.median, "pairs": pairs,
        "memory_mb": bytes_added / 1e6, "fraction_of_fma_peak": share,
        "vs_gsplat_torch": None, "vs_opensplat": None,
    }  # fmt: skip
    if options.anchors is None or name in options.anchors:
        for key, title in others.items():
            their_cost = in_torch(scene, anchor(key, checkout), 3)
            _show(title, their_cost, cost, memory(key, name, degree, checkout))
            row["vs_gsplat_torch" if key == "gsplat" else "vs_opensplat"] = their_cost.both / cost.both
    return row


def _show(name: str, cost: Cost, unit: Cost, bytes_added: int) -> None:
    _line(
        f"  {name:14} forward {cost.forward.min():8.1f}  backward {cost.backward.min():8.1f}  "
        f"sum {cost.both:8.1f}  median {cost.median:8.1f} CPU-ms  {cost.both / unit.both:6.1f} x  "
        f"memory {bytes_added / 1e6:7.1f} MB"
    )


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
