"""Every test gets a private store and settings folder; the JIT cache stays shared, it is only code."""

import pytest


@pytest.fixture(autouse=True)
def private_store(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def one_torch_thread():
    """For small tensors: torch's threads would spend their time waiting for one another."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.families import FamilyScheduling

    return FamilyScheduling(config, log)
