"""Messages about the connection and the daemon itself."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from shared_protocol.messages.parts import DeviceState, EngineState, Failure, Limits, WorkerState
from shared_protocol.messages.records import Limit, Message, Name, Options


@dataclass(frozen=True)
class Hello(Message):
    """First message of a connection, and again after each reconnect.

    token   from the connection file (endpoint.py); empty where a CURVE key says who we are
    client  a lasting name of this client, shown beside its jobs ("blender", "cli")
    """

    type = "hello"
    token: Annotated[str, Limit(256)]
    client: Name
    version: Name = ""


@dataclass(frozen=True)
class HelloReply(Message):
    """Who answers. A changed `boot` means: the daemon was started anew, subscribe again."""

    type = "hello_reply"
    product: Name
    version: Name
    protocol: Name
    boot: Name
    limits: Limits
    engines: Annotated[tuple[EngineState, ...], Limit(256)]
    recipes: Annotated[tuple[Name, ...], Limit(64)]
    features: Annotated[tuple[Name, ...], Limit(64)] = ()


@dataclass(frozen=True)
class Ping(Message):
    """Is the daemon's loop alive?"""

    type = "ping"


@dataclass(frozen=True)
class Pong(Message):
    """Yes; the same `boot` as in `hello_reply`."""

    type = "pong"
    boot: Name


@dataclass(frozen=True)
class ErrorReply(Message):
    """The request failed."""

    type = "error"
    failure: Failure


@dataclass(frozen=True)
class GetStatus(Message):
    """How is the daemon?"""

    type = "get_status"


@dataclass(frozen=True)
class Status(Message):
    """How the daemon is.

    counts             jobs by state
    counters           messages, refused, chunks ... since the start
    memory_bytes       of the daemon's process
    versions           of Python and of the libraries that matter
    devices            memory of this machine ("host") and of its GPUs
    disk_free_bytes    where results are stored
    paused             whether no waiting job is begun
    """

    type = "status"
    product: Name
    version: Name
    protocol: Name
    boot: Name
    pid: int
    uptime: float
    memory_bytes: int
    counts: Options
    counters: Options
    workers: Annotated[tuple[WorkerState, ...], Limit(64)]
    engines: Annotated[tuple[EngineState, ...], Limit(256)] = ()
    versions: Options = dataclasses.field(default_factory=dict)
    devices: Annotated[tuple[DeviceState, ...], Limit(64)] = ()
    disk_free_bytes: int = 0
    paused: bool = False


@dataclass(frozen=True)
class Shutdown(Message):
    """Stop the daemon; queued jobs stay in the store."""

    type = "shutdown"


@dataclass(frozen=True)
class ShutdownReply(Message):
    """It stops now."""

    type = "shutdown_reply"
