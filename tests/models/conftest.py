"""Tests of the published models: skipped where torch and diffusers are not installed."""

import pytest

for _package in ("torch", "diffusers", "transformers", "safetensors"):
    pytest.importorskip(_package)


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    # Small nets: several threads would mostly wait for one another.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
