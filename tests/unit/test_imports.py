"""The arrows of the architecture: who may import whom, and what never loads at start."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# package prefix -> prefixes of ours that it may import
ALLOWED = {
    "shared_protocol": {"shared_protocol"},
    "blender_addon": {"blender_addon", "shared_protocol"},
    "backend.geometry": {"backend.geometry", "shared_protocol"},
    "backend.weights": {"backend.weights", "shared_protocol"},
    "backend.models": {
        "backend.models", "backend.geometry", "backend.weights", "backend.pipeline.values",
        "backend.pipeline.stage", "backend.pipeline.engines", "shared_protocol",
    },
    "backend.pipeline": {
        "backend", "backend.pipeline", "backend.geometry", "backend.weights", "shared_protocol",
    },
    "backend.stages": {
        "backend.stages", "backend.geometry", "backend.models", "backend.weights", "backend.pipeline.values",
        "backend.pipeline.options", "backend.pipeline.stage", "backend.pipeline.engines", "shared_protocol",
    },
    "backend.evaluation": {
        "backend", "backend.evaluation", "backend.geometry", "backend.inputs", "backend.local_run",
        "backend.models", "backend.output", "backend.pipeline", "backend.report", "backend.warmup",
        "backend.weights", "shared_protocol",
    },
    "backend.daemon": {"backend", "backend.daemon", "backend.pipeline", "backend.weights", "shared_protocol"},
}  # fmt: skip
HEAVY = {"torch", "diffusers", "transformers", "gsplat", "nvdiffrast", "rembg", "onnxruntime", "bpy"}
NETWORKS = ("backend.models.", "backend.stages.surface.neus.")
"""Modules of networks, whose classes are torch's; their engines import them when they run."""
TORCHLESS = {"backend.models.cameras"} | {
    f"backend.stages.surface.neus.{name}" for name in ("engine", "settings", "hash_kernels", "between")
}
FORBIDDEN = {"torchvision", "timm", "open_clip", "pickle", "dill", "marshal", "shelve"}


def _modules():
    for package in ("shared_protocol", "blender_addon", "backend"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


@cache
def _statements(path, top_level_only):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def _imports(path, name, *, top_level_only=False):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _statements(path, top_level_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*base, node.module] if node.module else base)


@pytest.mark.parametrize("prefix", ALLOWED)
def test_a_package_imports_only_what_its_place_allows(prefix):
    broken = []
    for name, path in _modules():
        if name != prefix and not name.startswith(prefix + "."):
            continue
        for imported in _imports(path, name):
            ours = imported.split(".")[0] in ("backend", "blender_addon", "shared_protocol")
            allowed = any(
                imported == a or (a != "backend" and imported.startswith(a + ".")) for a in ALLOWED[prefix]
            )
            if ours and not allowed:
                broken.append(f"{name} imports {imported}")
    assert broken == []


def test_a_stage_never_imports_another_stage():
    broken = []
    for name, path in _modules():
        parts = name.split(".")
        if parts[:2] != ["backend", "stages"] or len(parts) < 3:
            continue
        for imported in _imports(path, name):
            other = imported.split(".")
            if other[:2] == ["backend", "stages"] and len(other) > 2 and other[2] != parts[2]:
                broken.append(f"{name} imports {imported}")
    assert broken == []


def test_nothing_imports_pickles_or_packages_that_do_not_load_beside_torch():
    broken = [
        f"{name} imports {imported}"
        for name, path in _modules()
        for imported in _imports(path, name)
        if imported.split(".")[0] in FORBIDDEN
    ]
    assert broken == []


def test_heavy_packages_are_imported_inside_the_engine_that_needs_them():
    broken = [
        f"{name} imports {imported} at its top"
        for name, path in _modules()
        if not name.startswith("blender_addon")
        if not name.startswith(NETWORKS) or name in TORCHLESS
        for imported in _imports(path, name, top_level_only=True)
        if imported.split(".")[0] in HEAVY
    ]
    assert broken == []


def test_nobody_imports_networks_at_the_top_but_networks():
    networks = {name for name, _ in _modules() if name.startswith(NETWORKS)} - TORCHLESS
    broken = [
        f"{name} imports {imported}"
        for name, path in _modules()
        if name not in networks
        for imported in _imports(path, name, top_level_only=True)
        if imported in networks
    ]
    assert networks and broken == []


@pytest.mark.parametrize(
    "module", ["backend.daemon.server", "backend.pipeline.recipes", "backend.pipeline.engines"]
)
def test_the_daemon_and_the_tables_load_neither_torch_nor_numba(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'numba', 'scipy', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
