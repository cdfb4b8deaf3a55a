"""The backend's own environment: made, checked, repaired, removed; what is refused, and in which words."""

import json
import os
import subprocess
import sys
import time
import zipfile
from email.parser import Parser

import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
import build_backend_wheel  # noqa: E402
from blender_addon import backend_install, session  # noqa: E402
from blender_addon.backend_install import MARKER, NO_TORCH, Installer, Task, installed  # noqa: E402
from blender_addon.backend_process import find_python, venv_python  # noqa: E402

pytestmark = pytest.mark.blender


def wait(installer, seconds=200.0):
    """Until it is over; returns the steps it named."""
    seen, end = [], time.monotonic() + seconds
    while installer.running and time.monotonic() < end:
        installer.pump()
        seen.append(installer.words)
        time.sleep(0.02)
    return list(dict.fromkeys(filter(None, seen)))


@pytest.fixture
def small_wheel(tmp_path):
    """A backend that needs nothing and knows its version."""
    path = tmp_path / "orrery-0.1.0-py3-none-any.whl"
    files = {
        "backend/__init__.py": "",
        "backend/__main__.py": "print('orrery 0.1.0')\n",
        "backend/daemon/__init__.py": "",
        "orrery-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: orrery\nVersion: 0.1.0\n",
        "orrery-0.1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["orrery-0.1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.slow
def test_the_backend_is_installed_found_repaired_and_removed(small_wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    folder, log = tmp_path / "back end", tmp_path / "install.log"
    installer = Installer()
    installer.install(folder, small_wheel, NO_TORCH, log)
    steps = wait(installer)
    assert installer.error is None, log.read_text()
    assert steps == [
        "making an environment", "fetching the backend's packages", "installing the backend", "checking",
        "the backend is installed",
    ]  # fmt: skip
    assert installed(folder)
    assert "Successfully installed orrery" in log.read_text()
    monkeypatch.delenv("PYTHONPATH")
    assert find_python("", tmp_path, str(folder)) == [str(venv_python(folder))]

    venv_python(folder).unlink()  # as after Blender, whose Python it was made with, moved elsewhere
    assert not installed(folder)
    installer.install(folder, small_wheel, NO_TORCH, log, repair=True)
    wait(installer)
    assert installer.error is None, log.read_text()
    assert installed(folder)

    installer.remove(folder, log)
    wait(installer)
    assert not folder.exists()


def test_a_folder_with_other_things_is_neither_filled_nor_emptied(small_wheel, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "dear.png").touch()
    installer = Installer()
    installer.install(folder, small_wheel, NO_TORCH, tmp_path / "install.log")
    wait(installer)
    assert "is not empty" in str(installer.error)
    installer.remove(folder, tmp_path / "install.log")
    wait(installer)
    assert "no backend that was installed here" in str(installer.error)
    assert (folder / "dear.png").exists()


def test_a_step_that_fails_is_named_with_its_last_line_and_the_log(tmp_path):
    installer = Installer()
    command = (sys.executable, "-c", "print('no route to host'); raise SystemExit(1)")
    installer.run(Task("fetching", command), tmp_path / "install.log", {}, lambda: None)
    wait(installer)
    assert "fetching ended with code 1: no route to host" in str(installer.error)
    assert (tmp_path / "install.log").read_text() == "no route to host\n"


def test_an_installation_that_is_cancelled_ends_at_once_without_an_error(tmp_path):
    installer = Installer()
    command = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)")
    installer.run(Task("fetching", command), tmp_path / "install.log", {}, lambda: None)
    while "here" not in installer.lines:
        installer.pump()
        time.sleep(0.01)
    installer.cancel()
    wait(installer, 10)
    assert (installer.running, installer.error, installer.words) == (False, None, "cancelled")


def test_two_blenders_do_not_install_into_one_folder_at_once(small_wheel, tmp_path):
    folder, first, second = tmp_path / "backend", Installer(), Installer()
    command = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)")
    first._start(lambda: first._run(Task("busy", command), 0.0), tmp_path / "one.log", folder=folder)
    while "here" not in first.lines:
        first.pump()
        time.sleep(0.01)
    for log in ("two.log", "one.log"):  # another user folder, the same one
        second.install(folder, small_wheel, NO_TORCH, tmp_path / log)
        wait(second, 10)
        assert "another Blender is busy with" in str(second.error)
    assert (tmp_path / "one.log").read_text() == "here\n"
    assert not folder.exists()
    first.cancel()
    wait(first, 10)
    second.remove(folder, tmp_path / "one.log")  # the lock went with its holder
    wait(second, 10)
    assert "no backend that was installed here" in str(second.error)


def test_a_disk_that_refuses_the_installation_is_named(small_wheel, tmp_path):
    (tmp_path / "file").touch()
    installer = Installer()
    installer.install(tmp_path / "file" / "backend", small_wheel, NO_TORCH, tmp_path / "install.log")
    wait(installer, 10)
    assert installer.error.code == "access_denied"
    assert "cannot be written" in str(installer.error)


def test_an_environment_that_is_half_made_is_not_taken_for_a_backend(tmp_path):
    (tmp_path / MARKER).write_text(json.dumps({"wheel": "x", "torch": NO_TORCH, "whole": False}))
    venv_python(tmp_path).parent.mkdir()
    venv_python(tmp_path).touch()
    assert not installed(tmp_path)


def test_offline_the_buttons_that_need_the_network_say_so(blender):
    blender_addon.register()
    try:
        assert not bpy.app.online_access  # what the module always says
        for button in (bpy.ops.orrery.install_backend, bpy.ops.orrery.repair_backend):
            with pytest.raises(RuntimeError, match="Blender is offline"):
                button()
        with pytest.raises(RuntimeError, match="Blender is offline"):
            bpy.ops.orrery.pull_weights(names="u2netp")
        with pytest.raises(RuntimeError, match="No backend is installed here"):
            bpy.ops.orrery.remove_backend()
        with pytest.raises(RuntimeError, match="No backend is connected"):
            bpy.ops.orrery.stop_backend()
    finally:
        blender_addon.unregister()


def test_weights_are_pulled_by_the_backends_own_python(blender, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\ncase "$*" in *find_spec*) exit 0;; esac\necho "$@" >> {tmp_path}/calls\n')
    script.chmod(0o755)
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    monkeypatch.setenv("ORRERY_PYTHON", str(script))
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    monkeypatch.setattr("blender_addon.operators.backend._idle", lambda *_, **__: True)
    blender_addon.register()
    try:
        bpy.ops.orrery.pull_weights(names="u2netp stlpips")
        installer = session.current().installer
        assert wait(installer)[0] == "fetching u2netp, stlpips"
        assert installer.error is None
    finally:
        blender_addon.unregister()
    assert (tmp_path / "calls").read_text() == "-m backend models pull u2netp stlpips\n"


def test_nothing_of_blenders_environment_reaches_the_backends(monkeypatch):
    for name in ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET"):
        monkeypatch.setenv(name, "/blender")
    environment = backend_install.clean_environment()
    assert not {"PYTHONHOME", "PYTHONPATH", "PIP_TARGET"} & set(environment)
    assert environment["PYTHONNOUSERSITE"] == "1"


def test_the_backends_wheel_is_reproducible_and_whole(tmp_path):
    first = build_backend_wheel.build_wheel(tmp_path / "a")
    assert first.read_bytes() == build_backend_wheel.build_wheel(tmp_path / "b").read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read("orrery-0.1.0.dist-info/METADATA").decode())
        record = archive.read("orrery-0.1.0.dist-info/RECORD").decode().splitlines()
    assert {"backend/__main__.py", "backend/weights/catalog.toml", "shared_protocol/frames.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "blender_addon")) or "pycache" in name]
    assert sorted(line.split(",")[0] for line in record) == sorted(names)
    assert "pyzmq>=26" in metadata.get_all("Requires-Dist")
    assert 'torch>=2.4 ; extra == "models"' in metadata.get_all("Requires-Dist")


@pytest.mark.slow
def test_pip_takes_the_backends_wheel(tmp_path):
    wheel = build_backend_wheel.build_wheel(tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--target",
        str(tmp_path / "at"),
        str(wheel),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "at" / "backend" / "__main__.py").exists()
