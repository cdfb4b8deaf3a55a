"""Chunk, credit and resume arithmetic, without sockets."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_protocol.errors import LimitExceeded, MalformedMessage
from shared_protocol.messages import Chunk, UploadChunk
from shared_protocol.transfer import (
    CHUNK_BYTES,
    MAX_CREDIT_BYTES,
    UPLOAD_CHUNK_BYTES,
    WINDOW_BYTES,
    Download,
    Receiving,
    Sending,
    Uploading,
    checksum,
)

CONTENT = random.Random(1).randbytes(3 * CHUNK_BYTES + 17)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def _chunk(sending):
    offset, length = sending.peek()
    data = CONTENT[offset : offset + length]
    sending.sent(length)
    return Chunk(offset, sending.size, checksum(data)), data


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(0, 60 * CHUNK_BYTES),
    window=st.integers(CHUNK_BYTES, 3 * WINDOW_BYTES),
    choices=st.lists(st.booleans(), max_size=60),
)
def test_never_more_than_the_window_is_on_its_way_and_all_arrives(size, window, choices):
    """Lengths only: the order of sending and taking is free."""
    sending = Sending(size, 0, min(window, MAX_CREDIT_BYTES))
    taken = counted = 0
    on_the_way = []
    turns = iter(choices)
    for _ in range(10_000):
        if sending.done and not on_the_way:
            break
        part = sending.peek()
        if part is not None and (not on_the_way or next(turns, False)) and not sending.done:
            on_the_way.append(part[1])
            sending.sent(part[1])
        elif on_the_way:
            length = on_the_way.pop(0)
            taken += length
            counted += length
            if counted * 2 >= window:
                sending.grant(counted)
                counted = 0
        assert sum(on_the_way) <= window
    assert taken == size


def test_a_download_resumes_where_it_was_cut_and_the_whole_is_verified():
    download = Download(DIGEST, len(CONTENT))
    received = b""
    sending = Sending(len(CONTENT), 0, download.fetch().credit)
    for _ in range(2):
        chunk, data = _chunk(sending)
        download.accept(chunk, data)
        received += data
    again = Download(DIGEST, len(CONTENT))  # another process, with the partial file
    again.resume(received)
    fetch = again.fetch()
    assert fetch.offset == 2 * CHUNK_BYTES
    sending = Sending(len(CONTENT), fetch.offset, fetch.credit)
    while not again.done:
        again.accept(*_chunk(sending))
    again.verify()


def test_an_altered_chunk_is_found_and_the_transfer_can_go_on_from_there():
    download = Download(DIGEST, len(CONTENT))
    chunk, data = _chunk(Sending(len(CONTENT), 0, WINDOW_BYTES))
    with pytest.raises(MalformedMessage, match="altered"):
        download.accept(chunk, data[:-1] + bytes([data[-1] ^ 1]))
    assert download.fetch().offset == 0
    download.accept(chunk, data)
    assert download.offset == CHUNK_BYTES


def test_a_chunk_out_of_order_or_too_long_is_refused():
    download = Download(DIGEST, len(CONTENT))
    data = CONTENT[:10]
    for chunk in (Chunk(10, len(CONTENT), checksum(data)), Chunk(0, len(CONTENT) + 1, checksum(data))):
        with pytest.raises(MalformedMessage):
            download.accept(chunk, data)


def test_wrong_content_is_found_at_the_end():
    download = Download(DIGEST, 3)
    download.accept(Chunk(0, 3, checksum(b"abc")), b"abc")
    with pytest.raises(MalformedMessage, match="checksum"):
        download.verify()


def test_empty_content_is_one_empty_chunk():
    sending = Sending(0, 0, 100)
    assert sending.peek() == (0, 0)
    download = Download(hashlib.sha256(b"").hexdigest(), 0)
    download.accept(Chunk(0, 0, 0), b"")
    assert download.done
    download.verify()


def test_credit_is_positive_and_bounded():
    sending = Sending(100, 0, WINDOW_BYTES)
    for credit in (0, -5):
        with pytest.raises(MalformedMessage):
            sending.grant(credit)
    with pytest.raises(LimitExceeded):
        sending.grant(MAX_CREDIT_BYTES)
    with pytest.raises(MalformedMessage):
        Sending(100, 101, 1)


def test_without_credit_nothing_is_sent():
    sending = Sending(CHUNK_BYTES, 0, 10)
    sending.sent(10)
    assert sending.peek() is None
    sending.grant(5)
    assert sending.peek() == (10, 5)


def test_an_upload_sends_the_window_then_waits_for_the_acknowledgement():
    uploading = Uploading(20 * UPLOAD_CHUNK_BYTES)
    uploading.start(UPLOAD_CHUNK_BYTES)
    parts = []
    while (part := uploading.next()) is not None:
        parts.append(part)
    assert parts[0] == (UPLOAD_CHUNK_BYTES, UPLOAD_CHUNK_BYTES)
    assert sum(length for _, length in parts) == WINDOW_BYTES
    uploading.acknowledge(2 * UPLOAD_CHUNK_BYTES)
    assert uploading.next() == (9 * UPLOAD_CHUNK_BYTES, UPLOAD_CHUNK_BYTES)
    with pytest.raises(MalformedMessage):
        uploading.acknowledge(20 * UPLOAD_CHUNK_BYTES)


def test_an_upload_is_taken_in_order_and_checked():
    receiving = Receiving(DIGEST, len(CONTENT))
    receiving.resume(CONTENT[:100])
    with pytest.raises(MalformedMessage):
        receiving.accept(UploadChunk(1, 0, checksum(b"abc")), b"abc")
    with pytest.raises(MalformedMessage, match="altered"):
        receiving.accept(UploadChunk(1, 100, 5), b"abc")
    with pytest.raises(MalformedMessage):
        receiving.accept(UploadChunk(1, 100, 0), b"")
    while not receiving.done:
        data = CONTENT[receiving.offset : receiving.offset + UPLOAD_CHUNK_BYTES]
        receiving.accept(UploadChunk(1, receiving.offset, checksum(data)), data)
    receiving.verify()
