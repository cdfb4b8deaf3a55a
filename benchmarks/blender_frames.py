"""How long the add-on holds up Blender's main thread: while a job runs, while its 200 MB stream in, and while
they are put into the scene.

    BPY_PYTHON -m benchmarks.blender_frames [--megabytes 200] [--window] [--save FILE]

BPY_PYTHON is a Python with the bpy module. A scripted backend plays a job with previews, then sends a mesh of
300,000 triangles and Gaussians of degree 3. Without `--window` the turns are driven here, in the background;
with it (Linux, Xvfb) Blender's own window and timer drive them, and undo is on. Wall clock: on a machine that
does other work, single turns are longer than the work in them, so the thread's CPU time is given beside. The
last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPLAT_BYTES = 62 * 4
PICTURE = bytes.fromhex("ffd8ffd9")


def result(megabytes: int) -> dict[str, bytes]:
    """A sphere of 300,000 triangles with a noisy texture, and Gaussians for the rest."""
    from tests.support import blender_files as files

    rings, segments = 300, 500
    around, up = np.meshgrid(np.arange(segments + 1), np.arange(rings + 1))
    azimuth, polar = around * 2 * np.pi / segments, up * np.pi / rings
    positions = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)], axis=-1
    ).reshape(-1, 3)
    positions[:: segments + 1] = positions[segments :: segments + 1]  # the seam closes exactly
    corner = (np.arange(rings)[:, None] * (segments + 1) + np.arange(segments)).reshape(-1)
    below = corner + segments + 1
    faces = np.concatenate(
        [np.stack([corner, corner + 1, below], -1), np.stack([corner + 1, below + 1, below], -1)]
    )
    uvs = np.stack([around / segments, up / rings], -1).reshape(-1, 2)
    texture = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), np.uint8)
    mesh = files.glb(0.5 * positions, faces, uvs, files.png(texture))
    count = max((megabytes * 10**6 - len(mesh)) // SPLAT_BYTES, 1000)
    return {"mesh.glb": mesh, "splats.ply": files.splat_ply(**files.ball_splats(count=count, terms=16))}


def backend(folder: Path, megabytes: int):
    """A backend in this process that shows previews and holds the job until `hold` is cleared."""
    from tests.support.blender_backend import ScriptedBackend

    previews = dict.fromkeys(("cutout", "orbit", "splats"), PICTURE)
    return ScriptedBackend(folder / "state", result(megabytes), previews=previews)


def in_background(folder: Path, megabytes: int) -> list[dict]:
    """Turn the session's pump here; each turn with its wall and CPU seconds."""
    os.environ["BLENDER_USER_RESOURCES"] = str(folder)
    os.environ["ORRERY_STATE"] = str(folder / "state")
    import bpy

    import blender_addon
    from blender_addon import session
    from blender_addon.jobs import State

    bpy.ops.wm.read_factory_settings(use_empty=True)
    session.user_folder = lambda: folder / "user"
    (folder / "duck.png").write_bytes(b"picture")
    turns = []
    sending = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.blender_frames", "--serve", str(folder), str(megabytes)]
    )
    try:
        _wait(lambda: (folder / "state" / "connection.json").exists())
        blender_addon.register()
        current = session.current()
        bpy.context.scene.orrery.path = str(folder / "duck.png")
        bpy.ops.orrery.generate()
        job = current.jobs.latest
        began = time.monotonic()
        while not job.final:
            phase = phase_of(job.state)
            wall, cpu = time.perf_counter(), time.thread_time()
            current.pump()
            turns.append(
                {
                    "phase": phase,
                    "wall": time.perf_counter() - wall,
                    "cpu": time.thread_time() - cpu,
                }
            )
            if job.state is State.RUNNING and time.monotonic() - began > 5:
                (folder / "go").touch()
            time.sleep(0.01)
        if job.error is not None:
            raise SystemExit(str(job.error))
        blender_addon.unregister()
    finally:
        sending.kill()
        sending.wait()
    return turns


def phase_of(state) -> str:
    """Running, receiving, importing."""
    return {"RECEIVING": "receiving", "RECEIVED": "importing", "IMPORTING": "importing"}.get(
        state.name, "running"
    )


def serve(folder: Path, megabytes: int) -> None:
    """The backend as a process of its own, so that its work is not ours; ends with its parent's kill."""
    with backend(folder, megabytes) as playing:
        playing.hold.set()
        while True:
            time.sleep(0.1)
            if (folder / "go").exists():
                playing.hold.clear()


def in_window(folder: Path, megabytes: int) -> list[dict]:
    """The same in Blender's window: its timer drives, the frame log of the add-on is read."""
    from tests.support.xvfb import screen

    sending = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.blender_frames", "--serve", str(folder), str(megabytes)]
    )
    (folder / "duck.png").write_bytes(b"picture")
    (folder / "settings.json").write_text(json.dumps({"picture": str(folder / "duck.png"), "generate": True}))
    try:
        _wait(lambda: (folder / "state" / "connection.json").exists())
        with screen(folder, (1280, 900)) as environment, (folder / "blender.log").open("wb") as log:
            window = subprocess.Popen(
                [sys.executable, "-m", "tests.support.blender_window", str(folder)],
                env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            _wait(lambda: _state(folder) == "RUNNING")
            time.sleep(5)
            (folder / "go").touch()
            _wait(lambda: _state(folder) in ("IMPORTED", "FAILED"))
            time.sleep(2)
            (folder / "quit").touch()
            window.wait(60)
    finally:
        sending.kill()
        sending.wait()
    turns = json.loads((folder / "frames.json").read_text())
    return [{"phase": what, "wall": seconds, "cpu": cpu} for _, seconds, cpu, what in turns]


def _state(folder: Path) -> str:
    path = folder / "status.json"
    return json.loads(path.read_text())["state"] if path.exists() else ""


def _wait(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it took too long")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of Blender's main thread.")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--window", action="store_true")
    parser.add_argument("--save", type=Path, help="write every turn as JSON")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "MEGABYTES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(Path(chosen.serve[0]), int(chosen.serve[1]))
        return
    with tempfile.TemporaryDirectory(prefix="orrery-frames-") as name:
        turns = (in_window if chosen.window else in_background)(Path(name), chosen.megabytes)
    if chosen.save:
        chosen.save.write_text(json.dumps(turns))
    figures = {}
    print(f"{'phase':<12}{'turns':>7}{'wall max':>10}{'wall p99':>10}{'cpu max':>10}{'over 16 ms':>12}")  # noqa: T201
    for phase in dict.fromkeys(turn["phase"] for turn in turns):
        wall = 1000 * np.array([turn["wall"] for turn in turns if turn["phase"] == phase])
        cpu = 1000 * np.array([turn["cpu"] for turn in turns if turn["phase"] == phase])
        over = int((cpu > 16).sum())
        print(  # noqa: T201
            f"{phase:<12}{len(wall):>7}{wall.max():>10.1f}{np.percentile(wall, 99):>10.1f}"
            f"{cpu.max():>10.1f}{over:>12}"
        )
        figures[phase] = {
            "turns": len(wall), "wall_ms_max": round(float(wall.max()), 1),
            "cpu_ms_max": round(float(cpu.max()), 1), "over_16_ms": over,
        }  # fmt: skip
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main()
