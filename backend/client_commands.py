"""serve, stop, status, submit, jobs, cancel, fetch: parsed arguments in, lines through `echo` out.

`add_commands` declares the arguments; each function's errors are those of `shared_protocol.errors`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.pipeline.engines import PROMPT_MODEL
from backend.queue_commands import ID_CHARACTERS, Add, Echo, add_queue_commands, connect, find_job
from shared_protocol import messages as m
from shared_protocol.endpoint import read_endpoint, state_folder
from shared_protocol.errors import Cancelled, InvalidInput, NotReachable, OrreryError

START_SECONDS = 3.0
"""How long `submit` waits for a backend to appear; it binds within one second of its start."""


def serve(args: argparse.Namespace, echo: Echo) -> None:
    """Run the daemon until it is stopped.

    args: host, port, state (Path or None), exit_with_parent (process id or 0), idle_exit (seconds or 0),
    workers (0: one a device), metrics_port (0: none)
    """
    from backend.daemon.config import DaemonConfig
    from backend.daemon.server import Daemon

    config = DaemonConfig(
        state=args.state or state_folder(),
        host=args.host,
        port=args.port,
        parent=args.exit_with_parent,
        idle_exit=args.idle_exit,
        workers=args.workers,
        metrics_port=args.metrics_port,
    )
    daemon = Daemon(config)
    echo(f"orrery backend listening on {daemon.endpoint.address} (connection file {daemon.connection_file})")
    daemon.run()


def stop(args: argparse.Namespace, echo: Echo) -> None:
    """Stop the daemon. args: state"""
    with connect(args) as client:
        client.shutdown()
    echo("The backend stops; waiting jobs go on when it is started again.")


def status(args: argparse.Namespace, echo: Echo) -> None:
    """What the daemon is doing. args: state, json"""
    with connect(args) as client:
        found = client.status()
    if args.json:
        echo(json.dumps(asdict(found), indent=2))
        return
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count) or "none"
    echo(f"orrery {found.version}, protocol {found.protocol}, process {found.pid}, up {_span(found.uptime)}")
    echo(f"jobs: {counts}{'; the queue is paused' if found.paused else ''}")
    for worker in found.workers:
        at = (
            f", job {worker.job[:ID_CHARACTERS]} in {worker.stage or 'its first stage'}" if worker.job else ""
        )
        again = f", restarted {worker.restarts} times" if worker.restarts else ""
        memory = f", {worker.memory_bytes / 2**20:.0f} MiB" if worker.memory_bytes else ""
        echo(f"worker ({worker.device or 'cpu'}): {worker.state}{at}{again}{memory}")
    if found.memory_bytes:
        echo(f"memory of the daemon: {found.memory_bytes / 2**20:.0f} MiB")
    for device in found.devices:
        echo(f"{device.name}: {device.free_bytes / 2**30:.1f} of {device.memory_bytes / 2**30:.1f} GiB free")
    echo(f"disk: {found.disk_free_bytes / 2**30:.1f} GiB free")


def check_source(args: argparse.Namespace) -> None:
    """InvalidInput unless there is a picture or a prompt, and one of them only."""
    if (args.picture is None) == (args.prompt is None):
        raise InvalidInput(
            "neither or both of a picture and a prompt were given",
            "a picture or a prompt: PICTURE, or --prompt TEXT --prompt-model NAME",
        )


def submit(args: argparse.Namespace, echo: Echo, options: Mapping[str, Any]) -> None:
    """Queue a picture or a prompt. With `watch`, follow it to its end; with `out`, then fetch its files.

    args: picture (Path or None), prompt, prompt_model, variations, quality, seed, priority, state,
    watch (bool), out (Path or None)
    options: {"texture.size": 2048, ...}, changes to the preset
    """
    from backend.pipeline.recipes import PIPELINE_FILE, PROMPT_FILE

    check_source(args)
    source = [args.picture]
    if args.prompt is not None:
        source = [(PROMPT_FILE, args.prompt.encode())]
        source += [(PIPELINE_FILE, args.prompt_model.encode())] if args.prompt_model else []
    _await_start(args.state)
    with connect(args) as client:

        def queue(seed: int, what: str) -> m.JobRecord:
            record: m.JobRecord = client.submit(
                source,
                recipe=f"{'image' if args.prompt is None else 'text'}_to_{what}",
                quality=args.quality,
                options=options,
                seed=seed,
                priority=args.priority,
                label=args.prompt or "",
            )
            echo(f"job {record.job}")
            if record.reused and record.state == m.QUEUED:
                echo(f"stored already, not run again: {', '.join(record.reused)}")
            return record

        if args.variations is not None:
            _submit_variations(args, echo, client, queue)
            return
        record = queue(args.seed, "3d")
        if not args.watch and args.out is None:
            return
        _follow(client, record.job, echo)
        if args.out is not None:
            client.fetch(record.job, args.out)
            echo(f"{args.out}: {', '.join(_top_names(client.manifest(record.job)))}")


def _submit_variations(
    args: argparse.Namespace, echo: Echo, client: Any, queue: Callable[[int, str], m.JobRecord]
) -> None:
    """Orbits of several seeds, a job each; with `out` the files that `generate --variations` writes."""
    from backend.output import OutputFolder
    from backend.variations import check_count, said, sheet

    check_count(args.variations)
    seeds = range(args.seed, args.seed + args.variations)
    made = {seed: queue(seed, "orbit").job for seed in seeds}
    if not args.watch and args.out is None:
        return
    for job in made.values():
        _follow(client, job, echo)
    if args.out is None:
        return
    pictures, facts = {}, []
    for seed, job in made.items():
        files = {file.name: bytes(client.read(file)) for file in client.manifest(job)}
        orbit = json.loads(files["report.json"])["stages"][-1]
        facts.append({"seed": seed, "seconds": orbit["seconds"], "reused": orbit["reused"]})
        pictures[seed] = files
    with OutputFolder(args.out) as folder:
        folder.publish(sheet(pictures, facts))
    echo(said(args.out, args.seed, args.variations))


def _follow(client: Any, job: str, echo: Echo) -> None:
    """Watch a job to its end; its error is raised. Ctrl-C leaves it alone."""
    try:
        _watch(client, job, echo)
    except KeyboardInterrupt:
        raise Cancelled(
            "no longer watching; the job goes on",
            remedy=f"To end it: python -m backend cancel {job[:ID_CHARACTERS]}",
        ) from None
    _fail_if_failed(client.job(job))


def jobs(args: argparse.Namespace, echo: Echo) -> None:
    """The jobs, the newest first. args: state, json, limit"""
    with connect(args) as client:
        records = client.jobs(limit=args.limit)
    if args.json:
        echo(json.dumps([asdict(record) for record in records], indent=2))
        return
    if not records:
        echo("No jobs yet. Submit one: python -m backend submit PICTURE")
    for record in records:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M")
        echo(f"{record.job[:ID_CHARACTERS]}  {when}  {record.state:<9}  {record.label}{_where(record)}")


def cancel(args: argparse.Namespace, echo: Echo) -> None:
    """Cancel a job and wait until it has ended. args: job (id or its beginning), state"""
    with connect(args) as client:
        job = find_job(client, args.job)
        record = client.cancel(job)
        if record.state not in m.TERMINAL:
            for _ in client.events(job, record.seq):
                pass
            record = client.job(job)
    echo(f"job {record.job[:ID_CHARACTERS]} {record.state}")


def fetch(args: argparse.Namespace, echo: Echo) -> None:
    """Bring a job's files into a folder. args: job (id or its beginning), out (Path), state"""
    with connect(args) as client:
        record = client.job(find_job(client, args.job))
        _fail_if_failed(record)
        paths = client.fetch(record.job, args.out)
        size = sum(path.stat().st_size for path in paths)
        echo(f"{args.out}: {len(paths)} files, {size / 1e6:.1f} MB, checksums verified")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What a job is made of, whether it runs here or in the daemon."""
    parser.add_argument("picture", type=Path, metavar="PICTURE", nargs="?")
    parser.add_argument("--prompt", metavar="TEXT", help="instead of a picture: draw one of this object")
    parser.add_argument(
        "--prompt-model",
        metavar="NAME",
        help="with --prompt: a diffusers text-to-image pipeline, a folder or a hub's owner/name "
        f"({PROMPT_MODEL})",
    )
    parser.add_argument(
        "--variations",
        type=int,
        metavar="N",
        help="only the orbits of N seeds, from --seed on, to choose from; nothing is reconstructed yet",
    )


def add_commands(
    add: Add,
    job_arguments: Callable[[argparse.ArgumentParser], None],
    changes: Callable[[argparse.Namespace], Mapping[str, Any]],
    echo: Echo,
) -> None:
    """Declare the daemon's commands.

    add            (name, function, summary) -> parser of a new command
    job_arguments  adds --quality, --seed and the options of a job to a parser
    changes        parsed arguments -> {"stage.field": value}
    """
    parser = add("serve", lambda args: serve(args, echo), "run the backend for Blender and other clients")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; left out, the system chooses")
    parser.add_argument("--exit-with-parent", type=int, default=0, metavar="PID", help="end when PID does")
    parser.add_argument(
        "--idle-exit", type=float, default=0.0, metavar="SECONDS", help="end after so long without work"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="jobs at a time; left out: one a GPU, else one"
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=0,
        metavar="PORT",
        help="Prometheus text at 127.0.0.1:PORT/metrics",
    )
    parsers = [parser]
    parsers.append(add("stop", lambda args: stop(args, echo), "stop the backend; waiting jobs are kept"))
    parser = add("status", lambda args: status(args, echo), "what the backend is doing")
    parser.add_argument("--json", action="store_true")
    parsers.append(parser)
    parser = add(
        "submit", lambda args: submit(args, echo, changes(args)), "give the backend a picture or a prompt"
    )
    add_source_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="follow the job to its end")
    parser.add_argument("--priority", type=int, default=0, help="-100 to 100; higher runs first")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="wait, then fetch the results into DIR")
    job_arguments(parser)
    parsers.append(parser)
    parser = add("jobs", lambda args: jobs(args, echo), "list the jobs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limit", type=int, default=50, metavar="N")
    parsers.append(parser)
    parser = add("cancel", lambda args: cancel(args, echo), "cancel a job")
    parser.add_argument("job", metavar="JOB", help="its id, or the beginning of it")
    parsers.append(parser)
    parser = add("fetch", lambda args: fetch(args, echo), "bring a job's files into a folder")
    parser.add_argument("job", metavar="JOB", help="its id, or the beginning of it")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parsers.append(parser)
    parsers += add_queue_commands(add, echo)
    for parser in parsers:
        parser.add_argument(
            "--state", type=Path, metavar="DIR", help="folder of the backend's jobs (ORRERY_STATE)"
        )


def _await_start(state: Path | None) -> None:
    """`serve &` and `submit` in one line: give a backend that is just starting a moment to bind."""
    for _ in range(int(START_SECONDS / 0.1)):
        try:
            read_endpoint(state)
        except NotReachable:
            time.sleep(0.1)
        else:
            return


def _watch(client: Any, job: str, echo: Echo) -> None:
    """A line for each stage begun and ended, and at most one every two seconds in between."""
    last = 0.0
    for event in client.events(job):
        label = f"{event.index + 1}/{event.stages} {event.stage:<8}" if event.stage else ""
        if event.kind == "step":
            if event.time - last < 2.0:
                continue
            part = f" {100 * event.done // event.total}%" if event.total else ""
            echo(f"{label}{part} {event.text}")
        elif event.kind == "finished":
            echo(f"{label} done in {event.seconds:.1f} s")
        elif event.kind == "reused":
            echo(f"{label} reused from an earlier run")
        elif event.kind != "started":
            echo(f"{event.kind}{': ' + event.text if event.text else ''}")
        last = event.time


def _fail_if_failed(record: m.JobRecord) -> None:
    if record.error is not None:
        raise record.error.error()
    if record.state == m.CANCELLED:
        raise Cancelled(f"job {record.job[:ID_CHARACTERS]} was cancelled")
    if record.state not in m.TERMINAL:
        raise InvalidInput(
            f"job {record.job[:ID_CHARACTERS]} is {record.state}", "one that has succeeded",
            "Wait for it: python -m backend jobs",
        )  # fmt: skip


def _where(record: m.JobRecord) -> str:
    if record.state == m.RUNNING:
        part = f" {100 * record.done // record.total}%" if record.total else ""
        return f"  {record.stage} ({record.index + 1}/{record.stages}){part}"
    if record.state == m.QUEUED:
        return f"  {record.position} before it"
    if record.error is not None:
        error: OrreryError = record.error.error()
        return f"  {error.code}: {error}"
    return f"  {_span(record.finished - record.started)}" if record.state == m.SUCCEEDED else ""


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _top_names(files: Sequence[m.ResultFile]) -> list[str]:
    return sorted({file.name.partition("/")[0] for file in files})
