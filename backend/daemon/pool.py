"""All workers, one a device, fed from one queue."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from backend.daemon.supervisor import Ended, Supervisor
from shared_protocol.messages import WorkerState
from shared_protocol.worker_link import Message

_WAKE_ADDRESS = "inproc://orrery-workers"
_READABLE = int(zmq.POLLIN)


class Pool:
    """The supervisors. `socket` becomes readable when one of their workers said something."""

    def __init__(
        self, context: "zmq.Context[Any]", command: Sequence[str], state: Path, devices: Sequence[str]
    ) -> None:
        self.socket = context.socket(zmq.PULL)
        self.socket.bind(_WAKE_ADDRESS)
        self.workers = [
            Supervisor(
                context, _WAKE_ADDRESS, command,
                state / ("worker.log" if index == 0 else f"worker-{index + 1}.log"),
                _environment(device, sum(other == "cpu" for other in devices)), device,
            )
            for index, device in enumerate(devices)
        ]  # fmt: skip

    def received(self) -> list[tuple[Supervisor, Message | Ended]]:
        """What the workers said since the last call."""
        while self.socket.get(zmq.EVENTS) & _READABLE:
            self.socket.recv()
        return [(worker, said) for worker in self.workers for said in worker.received()]

    def running(self, job: str) -> Supervisor | None:
        """The worker that runs this job."""
        return next((worker for worker in self.workers if worker.job == job), None)

    def states(self) -> tuple[WorkerState, ...]:
        """For `status`."""
        return tuple(worker.state() for worker in self.workers)

    @property
    def jobs(self) -> list[str]:
        """Those that run."""
        return [worker.job for worker in self.workers if worker.job]

    @property
    def ended(self) -> bool:
        """No process is left."""
        return not any(worker.running for worker in self.workers)

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close(0)


def _environment(device: str, on_cpu: int) -> dict[str, str]:
    """What a worker is told of its device: its GPU, or its share of the cores."""
    if device.startswith("cuda:"):
        return {"CUDA_VISIBLE_DEVICES": device.removeprefix("cuda:")}
    if on_cpu > 1 and not os.environ.get("ORRERY_THREADS"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return {"ORRERY_THREADS": str(max(1, cores // on_cpu))}
    return {}
