"""A daemon with the fake worker for each module, a client for each test, and no long pauses."""

import pytest

from backend import client_link
from tests.support.daemon import running_daemon


@pytest.fixture(scope="module")
def daemon(request, tmp_path_factory):
    """Shared by the tests of a module; DAEMON there holds its options (see tests/support/fake_daemon.py)."""
    options = getattr(request.module, "DAEMON", {})
    with running_daemon(tmp_path_factory.mktemp("daemon"), **options) as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A daemon on this machine is back sooner than the pauses between attempts to reach it grow."""
    monkeypatch.setattr(client_link, "BACK_OFF_SECONDS", (0.05, 0.1, 0.1, 0.1, 0.2, 0.2))
