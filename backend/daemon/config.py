"""The daemon's settings as one checked value. No environment is read after this."""

import ipaddress
import sys
from dataclasses import dataclass, field
from pathlib import Path

from backend.pipeline.recipes import RECIPES
from shared_protocol.errors import InvalidInput, Unsupported
from shared_protocol.messages import Limits

LOOPBACK = "127.0.0.1"
WORKER_COMMAND = (sys.executable, "-m", "backend.worker.main")
PICTURE_RECIPES = {name: len(recipe) for name, recipe in RECIPES.items() if recipe[0].inputs == ("picture",)}
"""Recipes that a client can submit, with their number of stages: those that start from pictures."""


@dataclass(frozen=True)
class DaemonConfig:
    """Settings of one daemon.

    state        folder of the store, the connection file and the logs; one daemon each
    host, port   where it listens; port 0 lets the system choose
    idle_exit    seconds without job and client after which it ends; 0: never
    parent       process whose end ends the daemon too; 0: none
    worker, recipes  how to start a worker, and which recipes it runs with how many stages
    """

    state: Path
    host: str = LOOPBACK
    port: int = 0
    idle_exit: float = 0.0
    parent: int = 0
    worker: tuple[str, ...] = WORKER_COMMAND
    recipes: tuple[tuple[str, int], ...] = tuple(PICTURE_RECIPES.items())
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidInput(f"port {self.port} does not exist", "0 to 65535")
        if not is_loopback(self.host):
            raise Unsupported(
                f"listening on {self.host} would let other machines in, which needs CURVE keys and a list "
                "of the clients allowed; this version has neither",
                "a loopback address such as 127.0.0.1",
                f"From another machine, use a tunnel: ssh -L 7421:127.0.0.1:PORT {self.host}",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
