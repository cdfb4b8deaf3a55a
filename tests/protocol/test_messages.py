"""The wire: golden bytes, strict decoding, limits, and that no bytes at all crash a decoder."""

import json
import random
import tracemalloc

import msgpack
import pytest

from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.errors import (
    LimitExceeded,
    MalformedMessage,
    OrreryError,
    ProtocolMismatch,
    Unsupported,
)
from tests.support.message_examples import (
    BUFFER,
    EXAMPLES,
    FAILURE,
    GOLDEN,
    JOB,
    OLDER,
    RECORD,
    REQUEST,
    SHA,
    encoded,
)

SUBMIT = {
    "type": "submit",
    "request": 7,
    "job": JOB,
    "recipe": "image_to_3d",
    "inputs": [{"name": "a.png", "sha256": SHA, "size": 3}],
}


def _decode(fields, *more):
    return frames.decode([frames.PREFIX, msgpack.packb(fields), *more])


def _name(message):
    return message.type


def test_there_is_an_example_of_every_message():
    assert {type(message) for message in EXAMPLES} == set(m.MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=_name)
def test_a_message_survives_the_wire(message):
    envelope = frames.decode(encoded(message))
    assert (envelope.message, envelope.request) == (message, REQUEST)
    assert envelope.buffer == (BUFFER if message.carries_buffer else None)


@pytest.mark.parametrize("message", EXAMPLES, ids=_name)
def test_the_released_bytes_are_still_written_and_read(message):
    golden = [bytes.fromhex(frame) for frame in json.loads(GOLDEN.read_text())[message.type]]
    assert encoded(message) == golden
    assert frames.decode(golden).message == message


def _contains(whole, part):
    """Whether `whole` says all that `part` says, and maybe more."""
    if isinstance(part, dict):
        return all(name in whole and _contains(whole[name], value) for name, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_contains, whole, part))
    return whole == part


@pytest.mark.parametrize("path", OLDER, ids=lambda path: path.stem)
def test_the_bytes_of_every_older_version_are_still_read(path):
    for kind, golden in json.loads(path.read_text()).items():
        parts = [bytes.fromhex(frame) for frame in golden]
        message = frames.decode(parts).message
        said = msgpack.unpackb(parts[1])
        assert (said.pop("type"), said.pop("request")) == (kind, REQUEST)
        assert _contains(m.to_plain(message), said)


@pytest.mark.parametrize("message", EXAMPLES, ids=_name)
def test_a_peer_of_version_1_0_reads_what_is_sent_today(message):
    """A decoder written from the frozen declarations of 1.0, which shares no code with ours."""
    schema = json.loads((GOLDEN.parent / "schema_1_0.json").read_text())
    if message.type not in schema["messages"]:
        return  # newer than 1.0: answered there with `unsupported`
    parts = encoded(message)
    assert parts[0][:5] == b"ORRY\x01"
    declared = schema["messages"][message.type]
    assert (len(parts) == 3) is declared["buffer"]
    _read_frozen(msgpack.unpackb(parts[1]), declared["fields"], schema["parts"])


def _read_frozen(said, fields, records):
    for name, kind in fields.items():
        assert name in said or not kind["required"], name
        if name in said:
            _check_frozen(said[name], kind, records)


def _check_frozen(value, kind, records):
    name = kind["is"]
    if name == "optional":
        if value is not None:
            _check_frozen(value, kind["of"], records)
    elif name == "list":
        assert type(value) is list
        assert len(value) <= kind["most"]
        for item in value:
            _check_frozen(item, kind["of"], records)
    elif name == "record":
        _read_frozen(value, records[kind["of"]], records)
    elif name == "map":
        assert type(value) is dict
        assert len(value) <= kind["most"]
    else:
        assert type(value).__name__ == name
        assert name != "str" or len(value) <= kind["most"]


def test_a_plain_msgpack_decoder_reads_the_header():
    golden = json.loads(GOLDEN.read_text())["submit"]
    assert bytes.fromhex(golden[0]) == b"ORRY\x01\x01"
    assert msgpack.unpackb(bytes.fromhex(golden[1])) == {
        "type": "submit",
        "request": REQUEST,
        "job": JOB,
        "recipe": "image_to_3d",
        "inputs": [{"name": "rocket.png", "sha256": SHA, "size": 123}],
        "quality": "draft",
        "options": {"texture.size": 512},
        "seed": 5,
        "label": "rocket.png",
        "priority": -3,
    }


def test_fields_of_a_newer_minor_version_are_ignored_and_missing_ones_take_their_default():
    message = _decode({**SUBMIT, "fairness": 3, "deadline": {"in": 5}}).message
    assert message == m.Submit(JOB, "image_to_3d", (m.InputFile("a.png", SHA, 3),))


def test_an_unknown_type_is_refused_with_its_request_number():
    with pytest.raises(Unsupported) as caught:
        _decode({"type": "teleport", "request": 9})
    assert caught.value.details["request"] == 9


def test_another_major_version_is_recognised_from_the_first_frame_alone():
    with pytest.raises(ProtocolMismatch, match=r"speaks protocol 2\.3; expected 1\.1"):
        frames.decode([b"ORRY\x02\x03", b"\xc1 not msgpack at all"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": JOB.upper()}, "Submit.job"),
        ({"job": JOB[:-1]}, "Submit.job"),
        ({"job": 12}, "Submit.job"),
        ({"job": None}, "Submit.job"),
        ({"seed": True}, "Submit.seed"),
        ({"seed": 1.0}, "Submit.seed"),
        ({"seed": 2**63}, "Submit.seed"),
        ({"label": b"bytes"}, "Submit.label"),
        ({"label": "x" * 513}, "Submit.label"),
        ({"inputs": {}}, "Submit.inputs"),
        ({"inputs": ["a.png"]}, "Submit.inputs"),
        ({"inputs": [{"name": "a.png"}]}, "InputFile lacks 'sha256'"),
        ({"inputs": SUBMIT["inputs"] * 65}, "Submit.inputs"),
        ({"options": [1]}, "Submit.options"),
        ({"options": {"a": b"x"}}, "Submit.options"),
        ({"options": {"a": float("nan")}}, "Submit.options"),
        ({"options": {"a": [[[[[[1]]]]]]}}, "Submit.options"),
        ({"options": {str(n): n for n in range(129)}}, "Submit.options"),
    ],
)
def test_a_field_of_another_type_or_size_is_refused_by_name(change, words):
    with pytest.raises(MalformedMessage, match=words.replace(".", r"\.")) as caught:
        _decode({**SUBMIT, **change})
    assert caught.value.details["request"] == 7


@pytest.mark.parametrize("request_number", [None, -1, 2**63, 1.5, True, "1"])
def test_a_header_needs_a_request_number(request_number):
    with pytest.raises(MalformedMessage, match="request number"):
        _decode({**SUBMIT, "request": request_number})


@pytest.mark.parametrize("parts", [[], [frames.PREFIX], [frames.PREFIX, b"\x80", b"", b""]])
def test_a_wrong_number_of_frames_is_refused(parts):
    with pytest.raises(MalformedMessage):
        frames.decode(parts)


def test_a_buffer_is_taken_where_declared_and_nowhere_else():
    header = frames.encode(m.Chunk(0, 1, 0), 1, b"x")[1]
    with pytest.raises(MalformedMessage, match="without its buffer"):
        frames.decode([frames.PREFIX, header])
    with pytest.raises(MalformedMessage, match="with a buffer"):
        frames.decode([*frames.encode(m.Ping(), 1), b"x"])
    with pytest.raises(MalformedMessage, match="buffer of 4194305 bytes"):
        frames.decode([frames.PREFIX, header, bytes(frames.MAX_BUFFER_BYTES + 1)])


def test_too_large_a_message_is_not_even_sent():
    with pytest.raises(LimitExceeded, match="header"):
        frames.encode(m.Jobs((RECORD,) * 300), 1)
    with pytest.raises(LimitExceeded, match="buffer"):
        frames.encode(m.Chunk(0, 1, 0), 1, bytes(frames.MAX_BUFFER_BYTES + 1))


@pytest.mark.parametrize(
    "header",
    [
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\xdd\xff\xff\xff\xff",  # a list of as many
        b"\xc6\xff\xff\xff\xff",  # four billion bytes
        b"\x91" * 60_000 + b"\xc0",  # 60,000 lists in each other
        b"\x81\xa1a" * 20_000 + b"\xc0",  # 20,000 maps in each other
        b"\xdc\xff\xff" + b"\x80" * 65_000,  # 65,000 empty maps
        b"\xd4\x05\x00",  # an extension type
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa4type\xa4\xff\xff\xff\xff",  # a text that is not UTF-8
        b"\x82\x01\x02\x01\x02",  # numbers as keys
        b"\x80\x80",  # something behind the map
        b"\xa0" * 65_537,
    ],
    ids=lambda header: header[:8].hex(),
)
def test_a_hostile_header_is_refused_and_costs_little_memory(header):
    tracemalloc.start()
    with pytest.raises(MalformedMessage):
        frames.decode([frames.PREFIX, header])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_no_bytes_crash_the_decoder():
    generator = random.Random(20)
    originals = [encoded(message) for message in EXAMPLES]
    refused = 0
    for _ in range(6000):
        parts = [bytearray(part) for part in generator.choice(originals)]
        part = generator.choice(parts)
        for _ in range(generator.randint(1, 4)):
            position = generator.randrange(len(part) + 1)
            action = generator.randrange(4)
            if action == 0 and position < len(part):
                part[position] = generator.randrange(256)
            elif action == 1:
                del part[position : position + generator.randint(1, 9)]
            elif action == 2:
                part[position:position] = generator.randbytes(generator.randint(1, 9))
            else:
                part[position:position] = part[: generator.randint(0, 40)]
        try:
            frames.decode([bytes(part) for part in parts])
        except OrreryError:
            refused += 1
    assert refused > 3000  # the rest are changes of texts and numbers within their limits


def test_an_error_crosses_the_wire_with_its_class_words_and_details():
    error = frames.decode(frames.encode(m.ErrorReply(FAILURE), 1)).message.failure.error()
    assert (error.code, error.remedy) == ("stage_failed", "Use another picture.")
    assert error.details == {"stage": "matting"}


def test_an_error_with_details_that_are_not_plain_still_crosses():
    error = MalformedMessage("x" * 5000, details_object=object(), number=3, path=GOLDEN)
    failure = frames.decode(frames.encode(m.ErrorReply(m.Failure.of(error)), 1)).message.failure
    assert (len(failure.found), failure.details["number"]) == (2048, 3)
    assert failure.details["path"] == str(GOLDEN)
