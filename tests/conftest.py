"""Every test gets a private store and settings folder; the JIT cache stays shared, it is only code."""

import pytest


@pytest.fixture(autouse=True)
def private_store(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path_factory.mktemp("store")))
