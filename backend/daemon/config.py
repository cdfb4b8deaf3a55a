"""The daemon's settings as one checked value. No environment is read after this."""

import ipaddress
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from backend.daemon.curve import require_keys
from backend.pipeline.engines import ENGINES, availability
from backend.pipeline.recipes import FROM_CLIENTS, RECIPES
from shared_protocol.errors import InvalidInput
from shared_protocol.messages import Limits

LOOPBACK = "127.0.0.1"
WORKER_COMMAND = (sys.executable, "-m", "backend.worker.main")
CLIENT_RECIPES = {
    name: tuple(stage.name for stage in recipe) for name, recipe in RECIPES.items() if name in FROM_CLIENTS
}
"""Recipes that a client can submit, with their stages."""
MAX_WORKERS = 64
STALL_SECONDS = 120.0


@dataclass(frozen=True)
class DaemonConfig:
    """Settings of one daemon.

    state          folder of the store, the connection file, keys and logs; one daemon each
    host, port     where it listens; port 0 lets the system choose. It listens on loopback in any case;
                   another host adds an address for clients with CURVE keys, at this port
    idle_exit      seconds without job and client after which it ends; 0: never
    parent         process whose end ends the daemon too; 0: none
    workers        how many jobs run at a time; 0: one a CUDA device that an engine can use, else one
    stall_seconds  a worker that says nothing for so long in a job (or for 10 steps of its engine, where those
                   are declared longer) is ended
    metrics_port   loopback port of the Prometheus text; 0: none
    worker, recipes  how to start a worker, and which recipes it runs with which stages
    """

    state: Path
    host: str = LOOPBACK
    port: int = 0
    idle_exit: float = 0.0
    parent: int = 0
    workers: int = 0
    stall_seconds: float = STALL_SECONDS
    metrics_port: int = 0
    worker: tuple[str, ...] = WORKER_COMMAND
    recipes: tuple[tuple[str, tuple[str, ...]], ...] = tuple(CLIENT_RECIPES.items())
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for port in (self.port, self.metrics_port):
            if not 0 <= port <= 65535:
                raise InvalidInput(f"port {port} does not exist", "0 to 65535")
        if not 0 <= self.workers <= MAX_WORKERS:
            raise InvalidInput(f"{self.workers} workers", f"1 to {MAX_WORKERS}, or 0 for as many as devices")
        if self.remote:
            require_keys(self.state, self.host, self.port)

    @property
    def remote(self) -> bool:
        """Whether other machines are let in."""
        return not is_loopback(self.host)

    def devices(self) -> tuple[str, ...]:
        """What each worker computes on: "cuda:0", "cpu" ..."""
        found = [f"cuda:{index}" for index in range(_cuda_devices())]
        count = self.workers or max(len(found), 1)
        return tuple((found + ["cpu"] * count)[:count])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cuda_devices() -> int:
    """CUDA devices that an engine can use; asks the driver's files, so that it costs nothing."""
    if not any(entry.cuda and availability(entry).ready for entry in ENGINES):
        return 0
    try:
        return max(len(os.listdir("/proc/driver/nvidia/gpus")), 1)
    except OSError:
        return 1
