"""The zip: the same bytes twice, accepted by Blender's own validator, installed into an empty Blender."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import build_addon  # noqa: E402

pytestmark = pytest.mark.blender

ROOT = Path(build_addon.__file__).parent


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of this platform, fetched once."""
    folder = tmp_path_factory.mktemp("wheels")
    try:
        build_addon.download_wheels(build_addon.current_platform(), folder)
    except build_addon.BuildError as error:
        pytest.skip(f"no wheels: {error}")
    return folder


@pytest.fixture(scope="module")
def archive(wheels, tmp_path_factory):
    target = build_addon.current_platform()
    return build_addon.build(
        target, build_addon.matching_wheels(target, wheels), tmp_path_factory.mktemp("dist")
    )


def test_the_same_input_gives_the_same_bytes(archive, wheels, tmp_path):
    target = build_addon.current_platform()
    again = build_addon.build(target, build_addon.matching_wheels(target, wheels), tmp_path)
    assert archive.read_bytes() == again.read_bytes()


def test_the_zip_brings_both_wheels_for_both_python_versions(archive):
    with zipfile.ZipFile(archive) as content:
        manifest = tomllib.loads(content.read("blender_manifest.toml").decode())
        names = content.namelist()
    assert manifest["platforms"] == [build_addon.current_platform()]
    assert sorted(path.removeprefix("./") for path in manifest["wheels"]) == sorted(
        name for name in names if name.startswith("wheels/")
    )
    assert [name for name in names if name.endswith(".whl") and not name.startswith("wheels/")] == [
        "backend_package/orrery-0.1.0-py3-none-any.whl"
    ], "the backend travels too, and not for Blender's Python"
    for package in ("pyzmq", "msgpack"):
        assert len([name for name in manifest["wheels"] if f"/{package}-" in name]) == 2


def test_every_import_in_the_zip_is_relative_or_blenders_or_a_wheels(archive):
    allowed = {"bpy", "bmesh", "bpy_extras", "gpu", "mathutils", "numpy", "zmq", "msgpack"}
    allowed |= set(sys.stdlib_module_names)
    # ZSTD, tried one after the other: of Python 3.14, and Blender's own for its .blend files.
    allowed |= {"compression", "zstandard"}
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if not name.endswith(".py"):
                continue
            for node in ast.walk(ast.parse(content.read(name))):
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found = [node.module]
                else:
                    continue
                assert {module.partition(".")[0] for module in found} <= allowed, (name, found)


def test_blenders_own_validator_accepts_the_zip(archive):
    tool = Path(bpy.utils.resource_path("LOCAL")) / "scripts/addons_core/bl_pkg/cli/blender_ext.py"
    if not tool.exists():
        pytest.skip(f"this Blender has no {tool}")
    outcome = subprocess.run(
        [sys.executable, str(tool), "validate", str(archive)], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_a_folder_without_the_wheels_is_an_error_that_names_the_missing_one(tmp_path, capsys):
    assert build_addon.main(["--wheels", str(tmp_path), "--platform", "windows-x64"]) == 2
    assert "no wheel of pyzmq==" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ((), "from .shared_protocol.errors import OrreryError\n"),
        (("importers",), "from ..shared_protocol.errors import OrreryError\n"),
        (("shared_protocol",), "from .errors import OrreryError\n"),
    ],
)
def test_imports_of_the_protocol_become_relative(package, expected):
    source = "from shared_protocol.errors import OrreryError\n"
    assert build_addon.relative_imports(source, package) == expected


def test_an_import_that_cannot_be_made_relative_stops_the_build():
    with pytest.raises(build_addon.BuildError, match="import shared_protocol"):
        build_addon.relative_imports("import shared_protocol.errors\n", ())


INSTALL = """
import sys
from importlib.machinery import PathFinder
import bpy
wheels_at = sys.argv[2]
class OnlyTheExtensions:
    # The virtual environment has zmq and msgpack too; an artist's Blender has not.
    def find_spec(self, name, path=None, target=None):
        if name in ("zmq", "msgpack"):
            return PathFinder.find_spec(name, [place for place in sys.path if place.startswith(wheels_at)])
sys.meta_path.insert(0, OnlyTheExtensions())
bpy.ops.extensions.package_install_files(
    filepath=sys.argv[1], repo="user_default", enable_on_install=True
)
import bl_ext.user_default.orrery as addon
from bl_ext.user_default.orrery.splats.columns import decode_stored
from bl_ext.user_default.orrery import session
import zmq
import msgpack
assert "shared_protocol" not in sys.modules, "the extension carries its own"
assert zmq.__file__.startswith(wheels_at) and msgpack.__file__.startswith(wheels_at), zmq.__file__
assert session.user_folder().is_relative_to(wheels_at), session.user_folder()
assert not bpy.ops.orrery.generate.poll()
bpy.context.scene.orrery.path = sys.argv[1]
assert bpy.ops.orrery.generate.poll()
import addon_utils
addon_utils.disable("bl_ext.user_default.orrery")
assert not hasattr(bpy.types.Scene, "orrery")
addon_utils.enable("bl_ext.user_default.orrery")
assert hasattr(bpy.types.Scene, "orrery")
print("INSTALLED")
"""


def test_the_zip_installs_into_an_empty_blender_and_uses_its_own_wheels(archive, tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(user)}
    environment.pop("PYTHONPATH", None)
    outcome = subprocess.run(
        [sys.executable, "-c", INSTALL, str(archive), str(user)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "INSTALLED" in outcome.stdout, outcome.stdout + outcome.stderr
