"""Reference data that may lie beside the checkout; tests skip with a reason where it is absent."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2].parent / "shared"


def shared_path(*parts: str) -> Path:
    """Path below the reference data; skips the test when it is not there."""
    path = _ROOT.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data {'/'.join(parts)} is not beside the checkout")
    return path
