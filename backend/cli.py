"""The command line: generate, reconstruct, convert, evaluate, engines, doctor, models, the daemon's commands.

Exit codes: 0 done, 2 an error that the user can mend (one sentence on stderr), 130 cancelled, 1 ours.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backend import __version__, client_commands
from backend.evaluation import command as evaluation_command
from backend.pipeline.engines import EMBEDDED, MODELS, all_engines, availability, find_engine
from backend.pipeline.options import AUTO, QUALITIES, SPLAT_FORMATS, STAGE_NAMES, override, preset
from shared_protocol.errors import Cancelled, EngineUnavailable, InternalError, InvalidInput, OrreryError


def echo(text: str = "") -> None:
    """A line on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point; always ends with SystemExit."""
    # A shell's background job starts with SIGINT ignored; whoever sends it to us means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code == Cancelled.exit_code:
        from backend.local_run import leave

        leave(code)
    raise SystemExit(code)


def run(arguments: Sequence[str]) -> int:
    """Parse, run, translate errors; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except OrreryError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("cancelled.\n")
        return Cancelled.exit_code
    except MemoryError:
        sys.stderr.write("out_of_memory: this machine's memory is used up. Try --quality draft.\n")
        return 2
    except OSError as error:
        from backend.pipeline.artifacts import translate_os_error

        known = translate_os_error(error, Path(error.filename or "."))
        if not isinstance(known, OrreryError):
            traceback.print_exc()
            return InternalError.exit_code
        sys.stderr.write(f"{known.code}: {known}\n")
        return known.exit_code
    return 0


# ---- generate, reconstruct


def _generate(args: argparse.Namespace) -> None:
    from backend.inputs.picture import load_picture
    from backend.local_run import run_into_folder
    from backend.pipeline.values import Picture

    options = _options(args)
    client_commands.check_source(args)
    if args.prompt is not None:
        from backend.prompt import draw

        warnings, source = (), args.prompt

        def picture_of(seed: int) -> Picture:
            return draw(args.prompt, args.prompt_model, seed)
    else:
        loaded = load_picture(args.picture)
        warnings, source = loaded.warnings, args.picture.name

        def picture_of(seed: int) -> Picture:
            return loaded.picture

    if args.variations:
        from backend.variations import write_variations

        echo(write_variations(picture_of, options, args.out, args.seed, args.variations))
        return
    report = run_into_folder(
        "image_to_3d",
        {"picture": picture_of(args.seed)},
        options,
        args.out,
        quality=args.quality,
        seed=args.seed,
        source=source,
        warnings=warnings,
    )
    _summary(report, args.out)


def _reconstruct(args: argparse.Namespace) -> None:
    from backend.inputs.cut import cut_out
    from backend.inputs.views import read_views
    from backend.local_run import run_into_folder
    from backend.pipeline.values import Picture

    numbers = itertools.count(1)

    def cut(picture: Picture) -> Picture:
        sys.stderr.write(f"Cutting the object out of view {next(numbers)}\n")
        return cut_out(picture)

    options = _options(args)
    views, facts = read_views(args.views, cut, orbit=args.orbit_cameras, elevation=args.elevation)
    report = run_into_folder(
        "views_to_3d",
        {"picture": Picture(views.rgba[0]), "views": views},
        options,
        args.out,
        quality=args.quality,
        seed=args.seed,
        source=args.views.name,
        extra=facts,
    )
    _summary(report, args.out)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return override(preset(args.quality), _changes(args))


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of the preset: {"texture.size": 2048, ...}."""
    changes: dict[str, Any] = {}
    for text in args.set or []:
        path, separator, value = text.partition("=")
        if not separator:
            raise InvalidInput(f"--set {text} has no value", "--set stage.field=value")
        changes[path] = value
    for stage in STAGE_NAMES:
        name = getattr(args, f"engine_{stage}", None)
        if name:
            if name != AUTO:
                find_engine(stage, name)
            changes[f"{stage}.engine"] = name
    for flag, path in (
        ("texture_size", "texture.size"),
        ("faces", "surface.faces"),
        ("gaussians", "splats.gaussians"),
        ("views_count", "orbit.views"),
        ("ring_elevation", "orbit.elevation"),
        ("radius", "orbit.radius"),
        ("splat_format", "export.splat_format"),
        ("lods", "surface.lods"),
        ("quads", "surface.quads"),
        ("normal_map", "texture.normal_map"),
        ("delight", "texture.delight"),
        ("mesh_formats", "export.mesh_formats"),
    ):
        if getattr(args, flag, None) is not None:
            changes[path] = getattr(args, flag)
    return changes


def _summary(report: dict[str, Any], out: Path) -> None:
    for warning in report["warnings"]:
        echo(f"Note: {warning}")
    sizes = report["sizes"]
    quality = ", ".join(
        f"{label} {report[key]:.{digits}f}{unit}"
        for key, label, digits, unit in (
            ("fit_psnr", "splat fit", 1, " dB"),
            ("front_psnr", "front view", 1, " dB"),
            ("silhouette_iou", "silhouette IoU", 3, ""),
        )
        if report.get(key) is not None
    )
    echo(
        f"{out}: mesh.glb ({sizes['faces']:,} faces, {sizes['texture_pixels']} px texture), "
        f"splats.ply ({sizes['gaussians']:,} Gaussians), turntable.png in {report['seconds']:.0f} s"
    )
    if quality:
        echo(f"Quality: {quality}.")


# ---- convert


def _convert(args: argparse.Namespace) -> None:
    from backend.convert import convert

    echo(convert(args.input, args.output, args.degree, args.keep_axes, args.drop_broken))


# ---- evaluate


def _evaluate(args: argparse.Namespace) -> None:
    evaluation_command.run(args, _changes(args), echo)


# ---- engines, doctor, models


def _engine_rows() -> list[dict[str, Any]]:
    rows = []
    for entry in all_engines():
        state = availability(entry)
        rows.append(
            {
                "stage": entry.stage,
                "engine": entry.name,
                "embedded": EMBEDDED.get(entry.stage) == entry.name,
                "ready": state.ready,
                "summary": entry.summary,
                "reason": state.reason,
                "remedy": state.remedy,
            }
        )
    return rows


def _engines(args: argparse.Namespace) -> None:
    rows = _engine_rows()
    if args.json:
        echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "ready" if row["ready"] else "unavailable"
        if row["reason"]:
            state += f"{', ' if row['ready'] else ': '}{row['reason']}. {row['remedy']}"
        mark = " (embedded)" if row["embedded"] else ""
        echo(f"{row['stage']:<9} {row['engine']:<9} {row['summary']}{mark}: {state}")


def _doctor(args: argparse.Namespace) -> None:
    if args.dry_run:
        _dry_run(args)
        return
    from backend.doctor import examine

    findings = examine()
    if args.json:
        echo(json.dumps({"findings": findings, "engines": _engine_rows()}, indent=2))
    else:
        for finding in findings:
            mark = "ok  " if finding["ok"] else "note"
            echo(
                f"{mark} {finding['what']}: {finding['found']}"
                + (f" {finding['remedy']}" if finding["remedy"] else "")
            )
        echo()
        _engines(args)


def _dry_run(args: argparse.Namespace) -> None:
    """A published engine at full size, without weights."""
    missing = [package for package in MODELS if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineUnavailable(
            f"not installed: {', '.join(missing)}", remedy='Run: pip install "orrery[models]"'
        )
    from backend.models import dry_run

    found = dry_run.examine(args.dry_run)
    if args.step:
        found["step"] = dry_run.random_step(args.dry_run)
    if args.json:
        echo(json.dumps(found, indent=2))
        return
    for line in dry_run.words(found):
        echo(line)
    if args.step:
        step = found["step"]
        echo(f"one step on random weights: {step['seconds']:.2f} s, peak {step['peak_gigabytes']:.1f} GB")


def _models(args: argparse.Namespace) -> None:
    from backend import models_commands

    models_commands.run(args, echo)


# ---- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend", description="Orrery: pictures into 3D. First steps: README.md."
    )
    parser.add_argument("--version", action="version", version=f"orrery {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = _command(commands, "generate", _generate, "one picture -> mesh, splats, orbit, report")
    client_commands.add_source_arguments(generate)
    _run_arguments(generate, STAGE_NAMES)
    generate.add_argument(
        "--views", type=int, dest="views_count", metavar="N", help="views of the orbit (16)"
    )
    generate.add_argument(
        "--elevation", type=float, dest="ring_elevation", metavar="DEG",
        help="how far the picture looks down on the object, degrees (0)",
    )  # fmt: skip
    generate.add_argument("--radius", type=float, metavar="M", help="distance of the ring, metres (3)")

    reconstruct = _command(commands, "reconstruct", _reconstruct, "posed views -> mesh, splats, report")
    reconstruct.add_argument(
        "views", type=Path, metavar="VIEWS", help="folder with pictures and transforms.json, or a film"
    )
    _run_arguments(reconstruct, ("splats", "surface", "texture", "export"))
    reconstruct.add_argument(
        "--orbit-cameras",
        metavar="MODEL",
        help="the frames are the orbit of hi3d, syncdreamer, v3d or sv3d, in order",
    )
    reconstruct.add_argument(
        "--elevation", type=float, metavar="DEG", help="of that orbit; left out, it is estimated"
    )

    convert = _command(commands, "convert", _convert, "Gaussians: .ply, .compressed.ply, .spz, .splat")
    convert.add_argument("input", type=Path, metavar="IN", help="known by its content")
    convert.add_argument("output", type=Path, metavar="OUT", help="its extension names the format")
    convert.add_argument(
        "--degree",
        type=int,
        choices=range(4),
        metavar="N",
        help="leave out harmonics above degree N (0 to 3)",
    )
    convert.add_argument(
        "--keep-axes",
        action="store_true",
        help="copy the numbers from and to SPZ without turning +Y up to +Z up",
    )
    convert.add_argument(
        "--drop-broken", action="store_true", help="leave out Gaussians whose numbers are not finite"
    )

    evaluate = _command(commands, "evaluate", _evaluate, "objects -> the papers' figures of the results")
    evaluation_command.add_arguments(evaluate)
    _job_arguments(evaluate, STAGE_NAMES[:-1])

    engines = _command(commands, "engines", _engines, "every engine, ready or why not")
    engines.add_argument("--json", action="store_true")
    doctor = _command(commands, "doctor", _doctor, "what this machine has, what is missing, what to do")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument(
        "--dry-run", metavar="ENGINE",
        help="a published engine (hi3d, hi3d_second, v3d, sv3d_u, sv3d_p) at full size without its weights",
    )  # fmt: skip
    doctor.add_argument(
        "--step", action="store_true", help="with --dry-run: a step on random weights, on a GPU"
    )

    models = _command(commands, "models", _models, "weights: list, pull, verify")
    models.add_argument("action", choices=("list", "pull", "verify"))
    models.add_argument("names", nargs="*", metavar="NAME")
    models.add_argument("--json", action="store_true")
    models.add_argument(
        "--from", type=Path, action="append", dest="files", metavar="FILE",
        help="pull: a checkpoint that is here already, checked and converted",
    )  # fmt: skip
    models.add_argument(
        "--accept-licence", action="store_true", help="pull: accept the model's licence, which is shown"
    )

    _daemon_commands(commands)
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=function)
    return parser


def _job_arguments(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    """What a job may set, whether it runs here or in the daemon."""
    parser.add_argument("--quality", choices=QUALITIES, default="standard")
    parser.add_argument("--seed", type=int, default=0)
    for stage in stages:
        parser.add_argument(
            f"--{stage}", dest=f"engine_{stage}", metavar="ENGINE", help=f"engine of the {stage} stage"
        )
    parser.add_argument("--texture-size", type=int, metavar="PX", help="edge of the texture (1024)")
    parser.add_argument("--faces", type=int, metavar="N", help="triangle budget (20000)")
    parser.add_argument("--gaussians", type=int, metavar="N", help="number of splats (20000)")
    parser.add_argument(
        "--lods",
        metavar="N",
        help="coarser copies of the mesh: how many (each a quarter), or budgets 5000,1000",
    )
    for flag, words in (
        ("--quads", "remesh to quads"),
        ("--normal-map", "bake what the triangle budget took away into a normal map"),
        ("--delight", "take smooth lighting out of the colours, guess a roughness"),
    ):
        parser.add_argument(flag, action="store_const", const=True, help=words)
    parser.add_argument(
        "--mesh-formats", metavar="FORMATS", help="mesh formats beside GLB, with commas: obj, ply, stl"
    )
    parser.add_argument(
        "--splat-format", choices=SPLAT_FORMATS, metavar="FORMAT",
        help="another format of the splats beside splats.ply: " + ", ".join(SPLAT_FORMATS[1:]),
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", metavar="STAGE.FIELD=VALUE", help="any other option of a stage"
    )


def _run_arguments(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    _job_arguments(parser, stages)


def _daemon_commands(commands: Any) -> None:
    """serve, stop, status, submit, jobs, cancel, fetch."""
    client_commands.add_commands(
        functools.partial(_command, commands),
        functools.partial(_job_arguments, stages=STAGE_NAMES),
        _changes,
        echo,
    )
