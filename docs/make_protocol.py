"""Writes docs/protocol.md from the declarations: python docs/make_protocol.py"""

import dataclasses
import inspect
import json
import re
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared_protocol import errors, frames, messages, transfer  # noqa: E402

TARGET = ROOT / "docs" / "protocol.md"

HEADER_KIB = frames.MAX_HEADER_BYTES // 1024
BUFFER_MIB, CHUNK_MIB, UPLOAD_CHUNK_MIB, WINDOW_MIB, CREDIT_MIB = (
    count // 2**20
    for count in (
        frames.MAX_BUFFER_BYTES,
        transfer.CHUNK_BYTES,
        transfer.UPLOAD_CHUNK_BYTES,
        transfer.WINDOW_BYTES,
        transfer.MAX_CREDIT_BYTES,
    )
)

INTRODUCTION = f"""\
# The protocol, version {frames.PROTOCOL_MAJOR}.{frames.PROTOCOL_MINOR}

Generated from `shared_protocol/messages/` by `docs/make_protocol.py`; change it there.

A client in any language needs ZeroMQ and msgpack. It connects a DEALER socket to the daemon's ROUTER and
sends messages of two or three frames:

| frame | content | limit |
|---|---|---|
| 0 | `ORRY`, one byte protocol major, one byte minor | {len(frames.PREFIX)} bytes |
| 1 | header: one msgpack map with `type`, `request` and the fields of the message | {HEADER_KIB} KiB |
| 2 | raw bytes, for the messages that carry some | {BUFFER_MIB} MiB |

**Connection file.** The daemon writes `connection.json` into its state folder (`ORRERY_STATE`, else
`~/.local/state/orrery`, `~/Library/Application Support/orrery`, `%LOCALAPPDATA%\\orrery\\state`), readable by
its owner only: `address` for ZeroMQ, `token` for `hello`, `pid` and `boot` of the daemon. Beside it, on Linux
and macOS, lies a Unix socket named after the port of `address`: with `tcp://127.0.0.1:41234`, ZeroMQ also
connects to `ipc://STATE/41234.sock`, which is a tenth faster. Everything else is the same on both.

**Requests.** `request` is a number that the client chooses, another for each message. A reply carries the
number of what it answers; so do the events of a subscription and the chunks of a transfer. An `error` in the
place of a reply says what was found, what was expected and what to do.

**Connections.** The first message is `hello`. After a reconnect the daemon does not know the connection and
answers `unauthorized` with `details.reason` = `hello_first`: say hello, subscribe and fetch again from where
you were. All requests may be repeated; a job is named by its client and never made twice.

**Versions.** Another major version is refused from frame 0 alone (`protocol_mismatch`). A newer minor version
may add fields, which are ignored where they are unknown, and messages, which are answered with `unsupported`.

**Fetching.** `fetch` opens a transfer with a credit in bytes ({WINDOW_MIB} MiB is right, at most
{CREDIT_MIB} MiB); chunks of at most {CHUNK_MIB} MiB come in order while there is credit; give back with
`credit` what you have taken. Check each chunk's `crc32` and the whole against its sha256.

**Uploading.** `upload_start` answers how much is there already; send `upload_chunk` of at most
{UPLOAD_CHUNK_MIB} MiB in order, at most {WINDOW_MIB} MiB beyond the last `upload_ack`.

Decoding is strict: a field has its declared type or the message is refused. Texts have at most the stated
number of characters, lists and maps the stated number of items. "plain" is null, bool, integer, float, text,
and lists and text-keyed maps of them, at most 4 levels deep. Times are seconds since 1970 (UTC).
"""


def main() -> None:
    """Write the page."""
    TARGET.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "\n## Messages\n"]
    parts += [_section(cls, f"`{cls.type}`") for cls in messages.MESSAGES]
    parts.append("\n## Parts of messages\n")
    parts += [_section(cls, cls.__name__) for cls in _records()]
    parts.append("\n## Errors\n\n| code | meaning |\n|---|---|\n")
    for cls in errors.BY_CODE.values():
        parts.append(f"| `{cls.code}` | {inspect.getdoc(cls)} |\n")
    return "".join(parts)


def _records() -> list[type]:
    return [
        cls
        for cls in messages.Record.__subclasses__()
        if cls is not messages.Message and cls.__module__ == messages.parts.__name__
    ]


def _section(cls: type, title: str) -> str:
    buffer = " + bytes" if getattr(cls, "carries_buffer", False) else ""
    text, meanings = _read_docstring(inspect.getdoc(cls) or "")
    lines = [f"\n### {title}{buffer}\n", text, ""]
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    if fields:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        lines.append(f"| `{field.name}` | {_words(hints[field.name])} | {_default(field)} | {meaning} |")
    return "\n".join(lines).rstrip() + "\n"


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """(the sentences, what it says of single fields: lines of names, two spaces, meaning)."""
    sentences: list[str] = []
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        found = re.match(r"([a-z_0-9]+(?:, [a-z_0-9]+)*) {2,}(\S.*)", line)
        if found:
            names = found[1].split(", ")
            meanings |= dict.fromkeys(names, found[2])
        elif names and line.startswith("  "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
        else:
            names = []
            sentences.append(line)
    return "\n".join(sentences).strip(), meanings


def _words(hint: typing.Any) -> str:
    limit = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, limit = typing.get_args(hint)
    if hint is str:
        if limit.hexadecimal:
            return f"{limit.most} lower-case hexadecimal digits"
        return f"text, {limit.most}"
    if hint in (int, float, bool):
        return {int: "integer", float: "number", bool: "bool"}[hint]
    if typing.get_origin(hint) is tuple:
        return f"list of {_words(typing.get_args(hint)[0])}; {limit.most} items"
    if typing.get_origin(hint) is dict:
        return f"map of text to plain; {limit.most} items"
    if isinstance(hint, type):
        return f"map: {hint.__name__}"
    return " or ".join("null" if kind is type(None) else _words(kind) for kind in typing.get_args(hint))


def _default(field: "dataclasses.Field[typing.Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "`{}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, tuple):
        return "`[]`"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    main()
