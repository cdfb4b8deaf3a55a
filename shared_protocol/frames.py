"""Messages <-> ZeroMQ frames. Every limit of the wire is a named number here.

    frame 0   6 bytes: b"ORRY", protocol major, protocol minor
    frame 1   msgpack map, at most 64 KiB: {"type": ..., "request": ..., fields of the message}
    frame 2   only where the message carries bytes: one raw buffer, at most 4 MiB

A peer of another major version is answered, and refused, from frame 0 alone: nothing behind it is read.
What the header may hold is declared in `messages.py`; the decoder's own limits keep a hostile header
from costing more than a few MB before it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from shared_protocol import messages
from shared_protocol.errors import LimitExceeded, MalformedMessage, ProtocolMismatch, Unsupported
from shared_protocol.messages import Message

MAGIC = b"ORRY"
PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 1

MAX_HEADER_BYTES = 64 * 1024
MAX_BUFFER_BYTES = 4 * 1024 * 1024
MAX_TEXT_BYTES = 8 * 1024
MAX_BINARY_BYTES = 1024
MAX_ITEMS = 1024

PREFIX = MAGIC + bytes((PROTOCOL_MAJOR, PROTOCOL_MINOR))


@dataclass(frozen=True)
class Envelope:
    """One message as received.

    request  number chosen by the client; replies, events and chunks carry that of the message they answer
    buffer   the raw bytes beside the header, None where there are none
    """

    message: Message
    request: int
    buffer: bytes | memoryview | None = None


def encode(message: Message, request: int, buffer: bytes | memoryview | None = None) -> list[Any]:
    """The frames of one message. LimitExceeded where header or buffer are too large for the wire."""
    header = msgpack.packb({"type": message.type, "request": request, **messages.to_plain(message)})
    if len(header) > MAX_HEADER_BYTES:
        raise LimitExceeded(
            f"a {message.type} header of {len(header)} bytes", f"at most {MAX_HEADER_BYTES} bytes"
        )
    if buffer is None:
        return [PREFIX, header]
    if len(buffer) > MAX_BUFFER_BYTES:
        raise LimitExceeded(
            f"a {message.type} buffer of {len(buffer)} bytes", f"at most {MAX_BUFFER_BYTES} bytes"
        )
    return [PREFIX, header, buffer]


def decode(frames: Sequence[bytes | memoryview]) -> Envelope:
    """Frames -> message, strictly: declared types only, limits first.

    Unknown fields are ignored, so a newer minor version may add some.
    Raises ProtocolMismatch (other major version), Unsupported (unknown type), MalformedMessage (the rest).
    The last two carry `details["request"]` where the number could be read, so that they can be answered.
    """
    if not frames:
        raise MalformedMessage("a message without frames")
    check_prefix(frames[0])
    if len(frames) not in (2, 3):
        raise MalformedMessage(f"a message of {len(frames)} frames", "2 or 3")
    fields = _unpack(frames[1])
    request = fields.pop("request", None)
    if type(request) is not int or not 0 <= request < 2**63:
        raise MalformedMessage("a header without a request number", "0 to 2**63 - 1")
    kind = fields.pop("type", None)
    if type(kind) is not str:
        raise MalformedMessage("a header without a type", request=request)
    cls = messages.BY_TYPE.get(kind)
    if cls is None:
        raise Unsupported(f"message type '{kind[:40]}' is unknown", request=request)
    buffer = frames[2] if len(frames) == 3 else None
    if buffer is not None and not cls.carries_buffer:
        raise MalformedMessage(f"a {kind} message with a buffer", "none", request=request)
    if buffer is None and cls.carries_buffer:
        raise MalformedMessage(f"a {kind} message without its buffer", request=request)
    if buffer is not None and len(buffer) > MAX_BUFFER_BYTES:
        raise MalformedMessage(
            f"a buffer of {len(buffer)} bytes", f"at most {MAX_BUFFER_BYTES}", request=request
        )
    try:
        message = messages.from_plain(cls, fields)
    except MalformedMessage as error:
        error.details["request"] = request
        raise
    return Envelope(message, request, buffer)


def check_prefix(prefix: bytes | memoryview) -> tuple[int, int]:
    """(major, minor) of the peer; ProtocolMismatch when we cannot speak with it."""
    prefix = bytes(prefix[:8])
    if len(prefix) != len(PREFIX) or not prefix.startswith(MAGIC):
        raise MalformedMessage("this is not Orrery's protocol", "frames that start with ORRY")
    major, minor = prefix[4], prefix[5]
    if major != PROTOCOL_MAJOR:
        raise ProtocolMismatch(
            f"the other side speaks protocol {major}.{minor}",
            f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
            "Update the older one: the backend with pip install -U, or the add-on in Blender's preferences.",
            theirs=f"{major}.{minor}",
            ours=f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
        )
    return major, minor


def _unpack(header: bytes | memoryview) -> dict[str, Any]:
    if len(header) > MAX_HEADER_BYTES:
        raise MalformedMessage(f"a header of {len(header)} bytes", f"at most {MAX_HEADER_BYTES}")
    try:
        fields = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=MAX_BINARY_BYTES,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedMessage("the header is not valid msgpack", "one map within the limits") from error
    if type(fields) is not dict:
        raise MalformedMessage("the header is not a map")
    return fields
