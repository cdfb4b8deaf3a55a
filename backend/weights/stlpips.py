"""The weights of the perceptual distance: AlexNet of ST-LPIPS (Ghildyal and Liu 2022), as plain arrays."""

import numpy as np

from backend.weights.store import find_entry, require, sha256_of, weights_present
from backend.weights.torch_file import read_tensors
from shared_protocol.errors import WeightsError

NAME = "stlpips"
REMEDY = f"Run: python -m backend models pull {NAME}"


def present() -> bool:
    """Whether the file is here."""
    return weights_present(NAME)


def load() -> dict[str, np.ndarray]:
    """Name -> float32 array: `net.sliceN.M.weight|bias`, `linN.model.1.weight`, `scaling_layer.*`.

    The file is checked first, so that a result depends on the catalogue's file and no other. Raises
    WeightsError when it is missing or differs.
    """
    path = require(NAME) / find_entry(NAME).files[0].name
    if sha256_of(path) != find_entry(NAME).files[0].sha256:
        raise WeightsError(f"{path} differs from the catalogue", remedy=REMEDY)
    return read_tensors(path)
