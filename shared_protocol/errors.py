"""Every error a user can meet, as one table: class, code, when it is raised.

OrreryError
 |- InvalidInput         invalid_input        a file or value is not what the command takes
 |- LimitExceeded        limit_exceeded       valid, but larger than a stated limit
 |- AccessDenied         access_denied        a file or folder cannot be read or written
 |- DiskFull             disk_full            no space left where a result must be written
 |- EngineUnavailable    engine_unavailable   a package, a weights file or a device is missing
 |- WeightsError         weights_error        weights cannot be fetched, or differ from their checksum
 |- Cancelled            cancelled            the user cancelled
 |- StageFailed          stage_failed         an engine could not make a result from this input
 |- OutOfMemory          out_of_memory        host or device memory ran out
 |- WorkerCrashed        worker_crashed       the worker process ended in the middle of a stage
 |- ProtocolMismatch     protocol_mismatch    the two sides speak different protocol versions
 |- Unsupported          unsupported          an unknown message or feature
 |- MalformedMessage     malformed_message    frames, header or buffer break the wire format
 |- Unauthorized         unauthorized         the token or key is wrong
 |- UnknownJob           unknown_job          no job (or artifact) of this name
 |- Conflict             conflict             the same job name with another content
 |- NotReachable         not_reachable        no backend answers
 |- ShuttingDown         shutting_down        the daemon takes no new work
 `- InternalError        internal_error       our mistake; the log has the details

A message has three parts: what was found, what was expected, what to do. Errors cross processes as
`to_wire()`: code, the three parts, and details; `from_wire()` gives the same class back.
"""

from typing import Any, ClassVar


class OrreryError(Exception):
    """Base of all errors shown to users.

    found     what was met, a clause that can open a sentence ("photo.txt is not an image")
    expected  what would have been right
    remedy    what to do now
    details   numbers and names for programs
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2

    def __init__(self, found: str, expected: str = "", remedy: str = "", **details: Any) -> None:
        self.found, self.expected, self.remedy, self.details = found, expected, remedy, details
        super().__init__(found)

    def __str__(self) -> str:
        text = self.found
        if self.expected:
            text += f"; expected {self.expected}"
        text = text.rstrip(".") + "."
        return f"{text} {self.remedy}" if self.remedy else text

    def to_wire(self) -> dict[str, Any]:
        """Plain dict for a message header."""
        return {
            "code": self.code,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
            "details": self.details,
        }


class InvalidInput(OrreryError):
    """A file or value is not what the command takes."""

    code = "invalid_input"


class LimitExceeded(OrreryError):
    """Valid, but larger than a stated limit."""

    code = "limit_exceeded"


class AccessDenied(OrreryError):
    """A file or folder cannot be read or written."""

    code = "access_denied"


class DiskFull(OrreryError):
    """No space is left where a result must be written."""

    code = "disk_full"


class EngineUnavailable(OrreryError):
    """A package, a weights file or a device that an engine needs is missing."""

    code = "engine_unavailable"


class WeightsError(OrreryError):
    """Weights cannot be fetched, or differ from their checksum."""

    code = "weights_error"


class Cancelled(OrreryError):
    """The user cancelled."""

    code = "cancelled"
    exit_code = 130


class StageFailed(OrreryError):
    """An engine could not make a result from this input."""

    code = "stage_failed"


class OutOfMemory(OrreryError):
    """Host or device memory ran out."""

    code = "out_of_memory"


class WorkerCrashed(OrreryError):
    """The worker process ended in the middle of a stage."""

    code = "worker_crashed"


class ProtocolMismatch(OrreryError):
    """The two sides speak different protocol versions."""

    code = "protocol_mismatch"


class Unsupported(OrreryError):
    """An unknown message or feature."""

    code = "unsupported"


class MalformedMessage(OrreryError):
    """Frames, header or buffer break the wire format."""

    code = "malformed_message"


class Unauthorized(OrreryError):
    """The token or key is wrong."""

    code = "unauthorized"


class UnknownJob(OrreryError):
    """No job or artifact of this name."""

    code = "unknown_job"


class Conflict(OrreryError):
    """The same job name with another content."""

    code = "conflict"


class NotReachable(OrreryError):
    """No backend answers."""

    code = "not_reachable"


class ShuttingDown(OrreryError):
    """The daemon takes no new work."""

    code = "shutting_down"


class InternalError(OrreryError):
    """Our mistake; the log has the details."""

    code = "internal_error"
    exit_code = 1


BY_CODE: dict[str, type[OrreryError]] = {cls.code: cls for cls in OrreryError.__subclasses__()}


def from_wire(data: dict[str, Any]) -> OrreryError:
    """Rebuild the error of `to_wire()`; an unknown code (a newer peer) gives `InternalError`."""
    cls = BY_CODE.get(str(data.get("code")), InternalError)
    return cls(
        str(data.get("found", "unknown error")),
        str(data.get("expected", "")),
        str(data.get("remedy", "")),
        **{str(key): value for key, value in dict(data.get("details") or {}).items()},
    )
