"""The service unit and the container file say what the daemon does."""

import configparser
import re
import shutil
import subprocess

import pytest

from tests.support.daemon import ROOT

UNIT = ROOT / "packaging" / "orrery.service"
CONTAINER = ROOT / "packaging" / "Containerfile"


def test_the_unit_waits_for_ready_and_for_signs_of_life():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "on-failure")
    assert int(service["WatchdogSec"]) >= 10
    assert int(service["TimeoutStopSec"]) > 10  # it promises to stop within 10 s
    assert "MemoryMax" in service
    assert service["ExecStart"].endswith("orrery serve")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_understands_every_line_of_the_unit(tmp_path):
    path = tmp_path / "orrery.service"
    path.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(path)], capture_output=True, text=True, check=False
    )
    assert str(path) not in done.stderr, done.stderr


def test_the_container_copies_what_exists_and_runs_as_nobody_special():
    text = CONTAINER.read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER (?!root)", text, re.M)
    assert "0.0.0.0" in text  # which makes the daemon ask for keys
