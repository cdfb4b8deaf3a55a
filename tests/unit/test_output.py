"""The user's folder: all files or none."""

import os
import sys

import pytest

from backend.output import OutputFolder
from shared_protocol.errors import AccessDenied, DiskFull


def test_publish_writes_every_file_and_leaves_nothing_else(tmp_path):
    with OutputFolder(tmp_path / "a" / "out") as folder:
        folder.publish({"mesh.glb": b"m", "orbit/000.png": b"p"})
    found = sorted(
        p.relative_to(tmp_path / "a" / "out").as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert found == ["mesh.glb", "orbit/000.png"]


def test_a_folder_made_for_a_failed_run_is_removed(tmp_path):
    with pytest.raises(ValueError, match="stage"), OutputFolder(tmp_path / "a" / "out"):
        raise ValueError("stage failed")
    assert list(tmp_path.iterdir()) == []


def test_earlier_results_survive_a_failed_run(tmp_path):
    (tmp_path / "mesh.glb").write_bytes(b"old")
    with pytest.raises(ValueError, match="stage"), OutputFolder(tmp_path):
        raise ValueError("stage failed")
    assert (tmp_path / "mesh.glb").read_bytes() == b"old"


def test_frames_of_a_longer_orbit_are_dropped(tmp_path):
    with OutputFolder(tmp_path) as folder:
        folder.publish({f"orbit/{i:03d}.png": b"p" for i in range(3)})
        folder.publish({"orbit/000.png": b"p"})
    assert [p.name for p in (tmp_path / "orbit").iterdir()] == ["000.png"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("here")
    with pytest.raises(AccessDenied, match="is a file"), OutputFolder(tmp_path / "out"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="needs the file-size limit of Linux")
def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path):
    import resource

    (tmp_path / "mesh.glb").write_bytes(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with OutputFolder(tmp_path) as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
        try:
            with pytest.raises(DiskFull, match="no space"):
                folder.publish({"a.bin": b"a", "mesh.glb": os.urandom(2 << 20)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [p.name for p in tmp_path.iterdir()] == ["mesh.glb"]
    assert (tmp_path / "mesh.glb").read_bytes() == b"old"
