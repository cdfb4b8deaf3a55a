"""The store of stage results, on a real folder."""

import numpy as np
import pytest

from backend.geometry.cameras import ring
from backend.pipeline import values
from backend.pipeline.artifacts import ArtifactStore


def _random_values():
    rng = np.random.default_rng(0)
    rgba = values.quantize(rng.random((2, 8, 8, 4))).astype(np.float32) / 255
    cameras = ring(2, radius=3, elevation_degrees=5, fov_degrees=25, size=8)
    depth = rng.random((2, 8, 8)).astype(np.float32)
    mesh = values.Mesh(rng.random((4, 3)), np.array([[0, 1, 2], [0, 2, 3]]))
    return [
        values.Picture(rgba[0]),
        values.Views(rgba, cameras),
        values.Views(rgba, cameras, np.array([1, 0.5], dtype=np.float32), depth, rgba[..., 3]),
        values.PointCloud(*(rng.random((5, 3)).astype(np.float32) for _ in range(3))),
        values.Splats(
            rng.random((3, 3)), rng.random((3, 3)), rng.random((3, 4)), rng.random(3), rng.random((3, 4, 3))
        ),
        mesh,
        values.TexturedMesh(mesh, rng.random((2, 3, 2)).astype(np.float32), rgba[0, ..., :3]),
        values.Exports({"mesh.glb": b"glb", "orbit/000.png": b"png"}),
    ]


@pytest.mark.parametrize("value", _random_values(), ids=lambda v: type(v).__name__)
def test_every_value_comes_back_as_it_was_stored(value, tmp_path):
    store = ArtifactStore(tmp_path)
    store.save("key", value)
    again = store.load(store.find("key"))
    assert again.to_files() == value.to_files()


def test_a_damaged_file_is_made_whole_when_its_value_is_stored_again(tmp_path):
    store = ArtifactStore(tmp_path)
    artifact = store.save("key", values.Exports({"mesh.glb": b"glb"}))
    store.blob_path(artifact.files["mesh.glb"]).write_bytes(b"g")
    assert store.find("key") is None
    store.save("key", values.Exports({"mesh.glb": b"glb"}))
    assert store.load(store.find("key")).files == {"mesh.glb": b"glb"}


def test_equal_values_make_equal_bytes_so_that_keys_are_stable():
    for first, second in zip(_random_values(), _random_values(), strict=True):
        assert first.to_files() == second.to_files()


def test_an_unknown_key_or_a_damaged_blob_is_not_found(tmp_path):
    store = ArtifactStore(tmp_path)
    assert store.find("key") is None
    artifact = store.save("key", values.Exports({"a": b"content"}))
    store.blob_path(artifact.files["a"]).write_bytes(b"cut")
    assert store.find("key") is None


def test_pruning_keeps_the_most_recently_used_within_the_quota(tmp_path):
    import os

    store = ArtifactStore(tmp_path, quota_bytes=2500)
    for age, key in enumerate(("new", "middle", "old")):
        store.save(key, values.Exports({"a": key.encode() * 250}))
        path = tmp_path / "keys" / f"{key}.json"
        os.utime(path, (1e9 - age, 1e9 - age))
    store.prune()
    assert [key for key in ("new", "middle", "old") if store.find(key)] == ["new", "middle"]
    assert len(list((tmp_path / "blobs").glob("*/*"))) == 2
