"""What the daemon says of its engines while weights come."""

from backend.weights.store import find_entry
from tests.support.daemon import running_daemon


def _rembg(reply):
    return next(engine for engine in reply.engines if (engine.stage, engine.name) == ("matting", "rembg"))


def test_an_engine_whose_weights_come_is_ready_without_a_restart(tmp_path):
    weights = tmp_path / "weights"
    with running_daemon(tmp_path, {"ORRERY_WEIGHTS": str(weights)}) as daemon:
        with daemon.client() as client:
            before = _rembg(client.hello())
            (file,) = find_entry("u2netp").files
            (weights / "u2netp").mkdir(parents=True)
            with (weights / "u2netp" / file.name).open("wb") as output:
                output.truncate(file.size)
            assert _rembg(client.status()).ready
        with daemon.client() as client:
            after = _rembg(client.hello())
    assert (before.ready, before.remedy) == (False, "Run: python -m backend models pull u2netp")
    assert (after.ready, after.reason) == (True, "")
