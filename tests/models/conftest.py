"""Tests of the published models: left out where torch and diffusers are not installed."""

import importlib.util

import pytest

PACKAGES = ("torch", "diffusers", "transformers", "safetensors")

# Their modules import these packages at the top, so that they can only be left out before they are imported.
collect_ignore_glob = [] if all(importlib.util.find_spec(name) for name in PACKAGES) else ["test_*.py"]


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    # Small nets: several threads would mostly wait for one another.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
