"""`evaluate`: the papers' protocols on a folder of objects, or on views that are there already."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.evaluation.protocols import PLACEMENTS, PROTOCOLS, TASKS, find_protocol
from backend.pipeline.options import preset
from shared_protocol.errors import InvalidInput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` takes besides the options of a job."""
    parser.add_argument(
        "objects", type=Path, nargs="?", metavar="MESHES", help="folder of GLB, glTF, OBJ, PLY, STL"
    )
    parser.add_argument(
        "--views",
        type=Path,
        metavar="DIR",
        help="instead of meshes: views with cameras (or folders of such), or a published model's orbit",
    )
    parser.add_argument("--truth", type=Path, metavar="MESH", help="with --views: the scan that they show")
    parser.add_argument("--orbit-cameras", metavar="MODEL", help="with --views, as in reconstruct")
    parser.add_argument("--elevation", type=float, metavar="DEG", help="with --views, as in reconstruct")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
    parser.add_argument(
        "--protocol", default="orrery", metavar="NAME",
        help="how to measure: " + ", ".join(p.name for p in PROTOCOLS) + " (orrery)",
    )  # fmt: skip
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="one picture -> 3D, or the ring of views -> 3D (image; with --views: views)",
    )
    parser.add_argument(
        "--placement", choices=PLACEMENTS, default="camera",
        help="how a result of task image comes to lie on the truth (camera)",
    )  # fmt: skip
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="LEVEL",
        help="task views: how far the given views disagree, 1 or 2 in our tables (0)",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N objects by name")
    parser.add_argument("--up", choices=("y", "z"), help="up axis of the files (glTF: y, others: z)")
    parser.add_argument(
        "--turn", type=float, default=0.0, metavar="DEG",
        help="turn the objects counter-clockwise seen from above; the input view looks from -Y",
    )  # fmt: skip


def run(args: argparse.Namespace, changes: dict[str, Any], echo: Callable[[str], None]) -> None:
    """Evaluate and print the table."""
    from backend.evaluation.evaluate import environment, evaluate
    from backend.evaluation.settings import Settings
    from backend.evaluation.tables import markdown_table

    if args.limit < 0:
        raise InvalidInput(f"--limit is {args.limit}", "0 or more")
    settings = Settings(
        find_protocol(args.protocol),
        args.task or ("image" if args.views is None else "views"),
        preset(args.quality),
        changes,
        args.placement,
        args.seed,
        args.noise,
    )
    source = _source(args)

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    rows = evaluate(source, settings, args.out, say)
    echo(markdown_table(rows, settings, environment(settings)))
    echo(f"{args.out}: results.csv, results.md, results.png, environment.json, objects/")


def _source(args: argparse.Namespace) -> Any:
    from backend.evaluation.posed import PosedViews
    from backend.evaluation.trials import Objects

    if (args.objects is None) == (args.views is None):
        raise InvalidInput(
            "neither meshes nor views are named" if args.views is None else "meshes and views are both named",
            "MESHES, or --views DIR",
        )
    if args.views is None:
        if args.truth or args.orbit_cameras or args.elevation is not None:
            raise InvalidInput("--truth, --orbit-cameras, --elevation describe views", "them with --views")
        return Objects(args.objects, args.limit, args.up, args.turn)
    return PosedViews(
        args.views, args.truth, args.orbit_cameras, args.elevation, args.limit, args.up, args.turn
    )
