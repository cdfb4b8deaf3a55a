"""examples/client.py: what the message reference says is enough to write a client."""

import ast
import os
import subprocess
import sys

from tests.support.daemon import ROOT, running_daemon

EXAMPLE = ROOT / "examples" / "client.py"


def test_it_is_short_and_needs_two_packages_only():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 60
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in imported if name not in sys.stdlib_module_names} == {"zmq", "msgpack"}


def test_it_brings_every_file_of_a_job(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(os.urandom(3_000_000))
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        script = EXAMPLE.read_text().replace('recipe="image_to_3d"', 'recipe="fake"')
        done = subprocess.run(
            [sys.executable, "-c", script, str(picture), str(tmp_path / "out")],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
            env=os.environ | {"ORRERY_STATE": str(daemon.state)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        for file in client.manifest(client.jobs()[0].job):
            assert (tmp_path / "out" / file.name).read_bytes() == client.read(file)
