"""Sessions by themselves: the token, and how many are remembered."""

import pytest

from backend.daemon.auth import IDLE_SECONDS, MAX_SESSIONS, Sessions
from backend.daemon.curve import AllowList
from backend.daemon.wire import LOCAL, REMOTE, Peer
from shared_protocol.errors import Unauthorized
from shared_protocol.messages import Hello


@pytest.fixture
def sessions(tmp_path):
    return Sessions("secret", AllowList(tmp_path))


def _peer(number):
    return Peer(LOCAL, b"\0" + number.to_bytes(4, "big"))


def test_connections_that_have_ended_never_keep_new_ones_out(sessions):
    living = _peer(0)
    sessions.admit(living, Hello("secret", "living"), 0.0)
    for number in range(1, 3 * MAX_SESSIONS):
        sessions.admit(_peer(number), Hello("secret", "cli"), float(number))
        assert sessions.find(living, number + 0.5).client == "living"
    assert len(sessions) == MAX_SESSIONS
    with pytest.raises(Unauthorized, match="not said hello"):
        sessions.find(_peer(1), 1e6)
    sessions.drop_idle(3 * MAX_SESSIONS + IDLE_SECONDS + 1)
    assert len(sessions) == 0


@pytest.mark.parametrize(
    ("peer", "token"),
    [
        (_peer(1), "Secret"),
        (_peer(1), ""),
        (Peer(LOCAL, b"chosen"), "secret"),
        (Peer(REMOTE, b"\0a", "k" * 40), ""),
    ],
)
def test_who_has_no_right_is_not_let_in(sessions, peer, token):
    with pytest.raises(Unauthorized):
        sessions.admit(peer, Hello(token, "x"), 0.0)
    assert len(sessions) == 0
