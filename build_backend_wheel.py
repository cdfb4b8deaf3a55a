"""The backend as a wheel that travels inside the Blender extension: the same sources give the same bytes.

    python build_backend_wheel.py -o dist/

Written by hand after the wheel format (PEP 427) and core metadata 2.1, because a build through pip would
need the network for its build tools. `pyproject.toml` stays the one place for names and dependencies.
"""

import argparse
import base64
import fnmatch
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
EPOCH = (1980, 1, 1, 0, 0, 0)
TAG = "py3-none-any"


def build_wheel(folder: Path) -> Path:
    """Write `orrery-VERSION-py3-none-any.whl` into `folder`."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    stem = f"{project['name']}-{project['version']}"
    files = _sources(document["tool"]["setuptools"])
    files |= {
        f"{stem}.dist-info/METADATA": metadata(project).encode(),
        f"{stem}.dist-info/WHEEL": (
            f"Wheel-Version: 1.0\nGenerator: orrery\nRoot-Is-Purelib: true\nTag: {TAG}\n".encode()
        ),
        f"{stem}.dist-info/entry_points.txt": _scripts(project).encode(),
    }
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},{_digest(data)},{len(data)}" for name, data in sorted(files.items())]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*sorted(set(files) - {record}), record]:
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    return path


def metadata(project: dict[str, Any]) -> str:
    """The text of METADATA: name, version, dependencies, extras."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
    ]
    for extra, requirements in project.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {requirement} ; extra == "{extra}"' for requirement in requirements]
    return "\n".join(lines) + "\n"


def _scripts(project: dict[str, Any]) -> str:
    scripts = "".join(f"{name} = {target}\n" for name, target in project.get("scripts", {}).items())
    return f"[console_scripts]\n{scripts}"


def _sources(setuptools: dict[str, Any]) -> dict[str, bytes]:
    """Path in the wheel -> content: the packages that setuptools would find, and their data."""
    patterns = setuptools["packages"]["find"]["include"]
    data = setuptools.get("package-data", {})
    found = {}
    for top in sorted(path for path in ROOT.iterdir() if (path / "__init__.py").exists()):
        if not any(fnmatch.fnmatch(top.name, pattern) for pattern in patterns):
            continue
        wanted = {*top.rglob("*.py"), *(path for glob in data.get(top.name, ()) for path in top.glob(glob))}
        for path in sorted(wanted):
            if "__pycache__" not in path.parts:
                text = path.read_bytes()
                found[path.relative_to(ROOT).as_posix()] = text.replace(b"\r\n", b"\n")
    return found


def _digest(data: bytes) -> str:
    text = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={text}"


def main(arguments: list[str] | None = None) -> int:
    """Build the wheel; one line."""
    parser = argparse.ArgumentParser(description="Build the backend's wheel.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", metavar="DIR")
    path = build_wheel(parser.parse_args(arguments).output)
    sys.stdout.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
