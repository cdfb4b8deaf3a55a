"""pause, resume, move, log, keygen: the queue and who may use it; parsed arguments in, lines out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_protocol.endpoint import (
    CONNECTION_FILE,
    Endpoint,
    create_state_folder,
    state_folder,
    write_endpoint,
)
from shared_protocol.errors import InvalidInput, UnknownJob

Echo = Callable[[str], None]
Add = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]
"""(name, function, summary) -> parser of a new command."""
ID_CHARACTERS = 8
"""Shown of a job's id; any unique beginning of it is taken."""


def pause(args: argparse.Namespace, echo: Echo) -> None:
    """Begin no waiting job, or begin them again. args: state, paused (bool)"""
    with connect(args) as client:
        found = client.pause() if args.paused else client.resume()
    state = "paused: what runs goes on, no other job is begun" if found.paused else "running"
    echo(f"the queue is {state}; {found.waiting} waiting")


def move(args: argparse.Namespace, echo: Echo) -> None:
    """Change the order of the queue. args: job (id or its beginning), position (0: next), state"""
    with connect(args) as client:
        record = client.move(find_job(client, args.job), args.position)
    echo(f"job {record.job[:ID_CHARACTERS]}: {record.position} before it")


def log(args: argparse.Namespace, echo: Echo) -> None:
    """What was logged of a job. args: job (id or its beginning), state"""
    with connect(args) as client:
        text = client.log(find_job(client, args.job))
    echo(text.decode("utf-8", "replace").rstrip("\n"))


def keygen(args: argparse.Namespace, echo: Echo) -> None:
    """Make the keys of a client on another machine, or take them away.

    args: name, address ("tcp://HOST:PORT" or ""), out (Path or None), revoke (bool), state
    """
    from backend.daemon import curve

    state = args.state or state_folder()
    if args.revoke:
        curve.revoke(state, args.name)
        echo(f"{args.name} is let in no more")
        return
    if not args.address.startswith("tcp://") or ":" not in args.address.removeprefix("tcp://"):
        raise InvalidInput(
            f"'{args.address}' is no address", "--address tcp://HOST:PORT, as this client reaches the backend"
        )
    create_state_folder(state)
    server, client = curve.create_server_pair(state), curve.new_pair()
    folder = args.out or Path(f"orrery-{args.name}")
    curve.allow(state, args.name, client.public)
    endpoint = Endpoint(
        args.address, server_key=server.public, public_key=client.public, secret_key=client.secret
    )
    write_endpoint(endpoint, folder)
    host, _, port = args.address.removeprefix("tcp://").rpartition(":")
    echo(f"{folder / CONNECTION_FILE}: bring it to the client's machine by a safe way; it holds a secret key")
    echo(f"there:  python -m backend status --state {folder.name}")
    echo(f"here:   python -m backend serve --host {host} --port {port}")


def add_queue_commands(add: Add, echo: Echo) -> list[argparse.ArgumentParser]:
    """Declare the commands; returns their parsers, which still lack --state."""
    parsers = []
    parser = add("pause", lambda args: pause(args, echo), "begin no waiting job")
    parser.set_defaults(paused=True)
    parsers.append(parser)
    parser = add("resume", lambda args: pause(args, echo), "begin waiting jobs again")
    parser.set_defaults(paused=False)
    parsers.append(parser)
    parser = add("move", lambda args: move(args, echo), "change the order of the queue")
    parser.add_argument("job", metavar="JOB", help="its id, or the beginning of it")
    parser.add_argument("position", type=int, metavar="POSITION", help="0: next")
    parsers.append(parser)
    parser = add("log", lambda args: log(args, echo), "what was logged of a job")
    parser.add_argument("job", metavar="JOB", help="its id, or the beginning of it")
    parsers.append(parser)
    parser = add("keygen", lambda args: keygen(args, echo), "let in a client from another machine")
    parser.add_argument("name", metavar="NAME", help="of the client")
    parser.add_argument(
        "--address", default="", metavar="tcp://HOST:PORT", help="how it reaches this machine"
    )
    parser.add_argument("--revoke", action="store_true", help="take its key away")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="for its connection file")
    parsers.append(parser)
    return parsers


def find_job(client: Any, beginning: str) -> str:
    """The full id of the one job that begins so; UnknownJob or InvalidInput."""
    if len(beginning) == 32:
        return beginning
    if len(beginning) < 4:
        raise InvalidInput(f"'{beginning}' is too short for a job", "4 characters of its id or more")
    found = [record.job for record in client.jobs(limit=1000) if record.job.startswith(beginning)]
    if not found:
        raise UnknownJob(f"no job begins with '{beginning}'", remedy="List them: python -m backend jobs")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} jobs begin with '{beginning}'", "more characters of the id")
    return found[0]


def connect(args: argparse.Namespace) -> Any:
    """A client of the daemon that `--state` names."""
    from backend.client import Client

    return Client(state=args.state, patience=10.0)
