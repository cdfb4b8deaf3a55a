"""Anything at all comes in: the daemon refuses it, grows by little, and others are served meanwhile."""

import random
import socket
import threading
import time

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_protocol import frames
from shared_protocol import messages as m
from tests.support.message_examples import EXAMPLES, encoded

GROWTH_BYTES = 64 * 2**20
HARMLESS = [e for e in EXAMPLES if not isinstance(e, m.Shutdown | m.Hello | m.Pause)]
BOMBS = (
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 60_000 + b"\xc0",
    b"\x81\xa1a" * 20_000 + b"\xc0",
    b"\xdc\xff\xff" + b"\x80" * 65_000,
    b"\xa0" * 65_537,
)


@pytest.fixture
def attacker(daemon):
    """A connection that has said hello, so that its messages get as far as they can."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(daemon.endpoint.address)
    socket.send_multipart(frames.encode(m.Hello(daemon.endpoint.token, "attacker"), 1))
    assert socket.poll(5000)
    socket.recv_multipart()
    yield socket
    socket.close()
    context.term()


def _mutated(generator):
    """A message with bits flipped, bytes cut, doubled or put in; frames too many, too few, too large."""
    kind = generator.random()
    if kind < 0.05:
        return [frames.PREFIX, generator.choice(BOMBS)]
    if kind < 0.1:
        return [generator.randbytes(generator.randrange(60)) for _ in range(generator.randint(1, 5))]
    if kind < 0.11:
        return [frames.PREFIX, msgpack.packb({"type": "ping", "request": 1}), bytes(4 * 2**20)]
    if kind < 0.12:
        return [b""] * generator.randint(1, 300)
    parts = [bytearray(part) for part in encoded(generator.choice(HARMLESS))]
    for _ in range(generator.randint(0, 4)):
        part = generator.choice(parts)
        at = generator.randrange(len(part) + 1)
        action = generator.randrange(4)
        if action == 0 and at < len(part):
            part[at] ^= 1 << generator.randrange(8)
        elif action == 1:
            del part[at : at + generator.randint(1, 9)]
        elif action == 2:
            part[at:at] = generator.randbytes(generator.randint(1, 9))
        else:
            part[at:at] = part[: generator.randint(0, 40)]
    if generator.random() < 0.1:
        parts = parts[: generator.randrange(len(parts))] or [bytearray()]
    return [bytes(part) for part in parts]


def _attack(daemon, attacker, count, seed):
    """Send `count` messages; returns the times that another client's pings took meanwhile."""
    generator, times, over = random.Random(seed), [], threading.Event()

    def ping():
        with daemon.client() as client:
            while not over.wait(0.01):
                start = time.perf_counter()
                client.ping()
                times.append(time.perf_counter() - start)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        for number in range(count):
            attacker.send_multipart(_mutated(generator))
            if number % 50 == 0:
                while attacker.poll(0):
                    attacker.recv_multipart()
    finally:
        over.set()
        thread.join()
    return sorted(times)


def _survives(daemon, attacker, count, seed):
    with daemon.client() as client:
        client.ping()
        before = client.status().memory_bytes
        _attack(daemon, attacker, 300, seed)  # what is made once and kept
        times = _attack(daemon, attacker, count, seed + 1)
        status = client.status()
        assert status.counters["refused"] > count / 3
        assert "internal_errors" not in status.counters
        assert status.memory_bytes - before < GROWTH_BYTES
        assert times[len(times) // 2] < 0.05
        return times[int(len(times) * 0.99)]


def test_thousands_of_mutated_messages_do_no_harm(daemon, attacker):
    _survives(daemon, attacker, 4000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_messages_do_no_harm(daemon, attacker):
    _survives(daemon, attacker, 100_000, seed=2)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "job", "token", "client", "sha256", "size", "offset", "credit", "after", "start", "inputs", "options",
    "states", "limit", "transfer", "bytes", "name", "position",
)  # fmt: skip
TYPES = sorted(cls.type for cls in m.MESSAGES if cls not in (m.Shutdown, m.Pause))
HEADERS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES), "request": st.integers(0, 2**63 - 1) | PLAIN},
    optional=dict.fromkeys(FIELDS, PLAIN),
)


@settings(
    max_examples=80, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(header=HEADERS, buffer=st.none() | st.binary(max_size=64))
def test_headers_of_the_right_shape_with_anything_inside_do_no_harm(daemon, attacker, header, buffer):
    attacker.send_multipart(
        [frames.PREFIX, msgpack.packb(header, use_bin_type=True), *([buffer] if buffer is not None else [])]
    )
    attacker.send_multipart(frames.encode(m.Ping(), 2**40))
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert attacker.poll(5000), "no answer"
        envelope = frames.decode(attacker.recv_multipart())
        if isinstance(envelope.message, m.Pong) and envelope.request == 2**40:
            return
        if isinstance(envelope.message, m.ErrorReply):
            assert envelope.message.failure.code not in ("internal_error", "error")
    raise AssertionError("no pong")


def test_other_protocols_and_half_connections_do_no_harm(daemon):
    host, port = daemon.endpoint.address.removeprefix("tcp://").split(":")
    generator = random.Random(5)
    opened = []
    strange = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        generator.randbytes(5000),
        b"\xff" * 64,
        b"",
    )
    for data in strange:
        stranger = socket.create_connection((host, int(port)), timeout=5)
        stranger.sendall(data)
        opened.append(stranger)
    with daemon.client() as client:
        assert client.ping()
    for stranger in opened:
        stranger.close()
