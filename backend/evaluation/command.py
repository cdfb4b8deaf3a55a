"""`evaluate`: the papers' protocols on a folder of objects."""

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
    parser.add_argument("objects", type=Path, metavar="MESHES", help="folder of GLB, glTF, OBJ, PLY, STL")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
    parser.add_argument(
        "--protocol", default="orrery", metavar="NAME",
        help="how to measure: " + ", ".join(p.name for p in PROTOCOLS) + " (orrery)",
    )  # fmt: skip
    parser.add_argument(
        "--task", choices=TASKS, default="image", help="one picture -> 3D, or the ring of views -> 3D (image)"
    )
    parser.add_argument(
        "--placement", choices=PLACEMENTS, default="camera",
        help="how a result of task image comes to lie on the truth (camera)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N objects by name")
    parser.add_argument("--up", choices=("y", "z"), help="up axis of the files (glTF: y, others: z)")
    parser.add_argument(
        "--turn", type=float, default=0.0, metavar="DEG",
        help="turn the objects counter-clockwise seen from above; the input view looks from -Y",
    )  # fmt: skip


def run(args: argparse.Namespace, changes: dict[str, Any], echo: Callable[[str], None]) -> None:
    """Evaluate and print the table."""
    from backend.evaluation.evaluate import Objects, environment, evaluate
    from backend.evaluation.measure import Settings
    from backend.evaluation.tables import markdown_table

    if args.limit < 0:
        raise InvalidInput(f"--limit is {args.limit}", "0 or more")
    settings = Settings(
        find_protocol(args.protocol), args.task, preset(args.quality), changes, args.placement, args.seed
    )
    objects = Objects(args.objects, args.limit, args.up, args.turn)

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    rows = evaluate(objects, settings, args.out, say)
    echo(markdown_table(rows, settings, environment(settings)))
    echo(f"{args.out}: results.csv, results.md, results.png, environment.json, objects/")
