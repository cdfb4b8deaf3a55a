"""Build the Blender extension: one zip a platform with the add-on, the protocol and their wheels, and the
backend's own wheel, which the add-on installs elsewhere on request.

    python build_addon.py                      for this machine, into dist/
    python build_addon.py --platform all
    python build_addon.py --wheels DIR         take the wheels from DIR, no network

The same sources and wheels give the same bytes. Inside the zip everything is one package: an extension
is imported as `bl_ext.REPOSITORY.orrery`, so the absolute imports of `shared_protocol` are rewritten as
relative ones. Nothing but the standard library is needed.
"""

import argparse
import ast
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

from build_backend_wheel import build_wheel

ROOT = Path(__file__).resolve().parent
ADDON, PROTOCOL = ROOT / "blender_addon", ROOT / "shared_protocol"

REQUIREMENTS = ("pyzmq==27.3.0", "msgpack==1.2.4")
PYTHON_VERSIONS = ("3.11", "3.13")
"""Blender 4.2 to 5.0, and 5.1 on."""

WHEEL_PLATFORMS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "windows-arm64": ("win_arm64",),
    "macos-arm64": ("macosx_11_0_arm64", "macosx_11_0_universal2"),
    "macos-x64": ("macosx_11_0_x86_64", "macosx_11_0_universal2"),
}

EPOCH = (1980, 1, 1, 0, 0, 0)
SKIPPED = ("__pycache__", "wheels", "backend_package")
BACKEND_FOLDER = "backend_package"

_IMPORT = re.compile(r"^(?P<indent>\s*)from shared_protocol(?P<module>(?:\.\w+)*) import ", re.MULTILINE)


class BuildError(Exception):
    """A sentence for the person who builds."""


def current_platform() -> str:
    """Blender's name of this machine's platform."""
    system = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}.get(platform.system())
    machine = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x64"
    name = f"{system}-{machine}"
    if name not in WHEEL_PLATFORMS:
        raise BuildError(f"Blender has no builds for {name}; choose one with --platform.")
    return name


def download_wheels(target: str, folder: Path) -> list[Path]:
    """Fetch the wheels of one platform for every Python version, with pip."""
    for version in PYTHON_VERSIONS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", version]
        for tag in WHEEL_PLATFORMS[target]:
            command += ["--platform", tag]
        outcome = subprocess.run(
            [*command, "--dest", str(folder), *REQUIREMENTS], capture_output=True, text=True, check=False
        )
        if outcome.returncode:
            raise BuildError(
                f"The wheels for {target}, Python {version}, could not be fetched: {outcome.stderr.strip()}\n"
                "Check the connection, or give a folder that holds them with --wheels."
            )
    return sorted(folder.glob("*.whl"))


def matching_wheels(target: str, folder: Path) -> list[Path]:
    """The wheels in `folder` that this platform's zip needs; BuildError names what is missing."""
    found = set()
    for requirement in REQUIREMENTS:
        name, _, release = requirement.partition("==")
        for version in PYTHON_VERSIONS:
            fitting = [
                path
                for path in sorted(folder.glob(f"{name}-{release}-*.whl"))
                if _fits(path, target, version)
            ]
            if not fitting:
                raise BuildError(f"{folder} has no wheel of {requirement} for {target}, Python {version}.")
            found.add(fitting[0])
    return sorted(found)


def _fits(wheel: Path, target: str, version: str) -> bool:
    python, abi, platforms = wheel.stem.split("-")[-3:]
    wanted = int(version.partition(".")[2])
    minor = int(python.removeprefix("cp3"))
    if minor != wanted and not (abi == "abi3" and minor <= wanted):
        return False
    system, _, machine = target.partition("-")
    parts = {"linux": "manylinux", "windows": "win", "macos": "macosx"}[system]
    machines = {"x64": ("x86_64", "amd64", "universal2"), "arm64": ("arm64", "universal2")}[machine]
    return platforms.startswith(parts) and any(name in platforms for name in machines)


def relative_imports(source: str, package: tuple[str, ...]) -> str:
    """Rewrite `from shared_protocol...` in a module of the sub-package `package` ((),  ("importers",) ...).

    Raises BuildError when an absolute import of ours is left that the rewriting does not know.
    """
    inside = package[:1] == ("shared_protocol",)

    def replace(match: re.Match[str]) -> str:
        module = match["module"] if inside else ".shared_protocol" + match["module"]
        dots = "." * (len(package) if inside else len(package) + 1)
        return f"{match['indent']}from {dots}{module.removeprefix('.')} import "

    result = _IMPORT.sub(replace, source)
    for node in ast.walk(ast.parse(result)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] in ("shared_protocol", "blender_addon", "backend"):
                raise BuildError(f"'import {name}' cannot be made relative; write 'from ... import ...'.")
    return result


def manifest_for(target: str, wheels: list[str]) -> str:
    """The manifest with the platform and wheels filled in, before its first table."""
    text = (ADDON / "blender_manifest.toml").read_text(encoding="utf-8")
    lines = "".join(f'    "./wheels/{name}",\n' for name in sorted(wheels))
    extra = f'platforms = ["{target}"]\nwheels = [\n{lines}]\n\n'
    head, bracket, tail = text.partition("[permissions]")
    result = head + extra + bracket + tail
    tomllib.loads(result)
    return result


def contents(target: str, wheels: list[Path]) -> dict[str, bytes]:
    """Path inside the zip -> bytes."""
    files: dict[str, bytes] = {}
    for root, prefix in ((ADDON, ()), (PROTOCOL, ("shared_protocol",))):
        for path in sorted(root.rglob("*")):
            relative = PurePosixPath(*prefix, *path.relative_to(root).parts)
            if path.is_dir() or any(part in SKIPPED for part in relative.parts):
                continue
            data = path.read_bytes()
            if path.suffix == ".py":
                text = data.decode("utf-8").replace("\r\n", "\n")
                data = relative_imports(text, relative.parts[:-1]).encode("utf-8")
            files[str(relative)] = data
    files["blender_manifest.toml"] = manifest_for(target, [path.name for path in wheels]).encode("utf-8")
    for path in wheels:
        files[f"wheels/{path.name}"] = path.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        backend = build_wheel(Path(temporary))
        # Not among the manifest's wheels: those go into Blender's Python, this one never does.
        files[f"{BACKEND_FOLDER}/{backend.name}"] = backend.read_bytes()
    return files


def build(target: str, wheels: list[Path], folder: Path) -> Path:
    """Write `orrery-VERSION-PLATFORM.zip` into `folder` and return its path."""
    files = contents(target, wheels)
    version = tomllib.loads(files["blender_manifest.toml"].decode())["version"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"orrery-{version}-{target}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # the same bytes from Windows too
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Build the chosen zips; one line each."""
    parser = argparse.ArgumentParser(description="Build the Blender extension zips.")
    parser.add_argument("--platform", choices=[*WHEEL_PLATFORMS, "all"], help="default: this machine's")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take the wheels from here, no network")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", metavar="DIR")
    chosen = parser.parse_args(arguments)
    try:
        targets = (
            list(WHEEL_PLATFORMS) if chosen.platform == "all" else [chosen.platform or current_platform()]
        )
        for target in targets:
            with tempfile.TemporaryDirectory() as temporary:
                wheels = matching_wheels(target, chosen.wheels) if chosen.wheels else []
                wheels = wheels or download_wheels(target, Path(temporary))
                path = build(target, wheels, chosen.output)
            sys.stdout.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n")
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
