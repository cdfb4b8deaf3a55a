"""The weights of LPIPS with VGG-16, which `backend.models.lpips` computes with: whether they are here."""

from backend.weights.store import weights_present

NAME = "lpips_vgg"
REMEDY = f"Run: python -m backend models pull {NAME}"


def present() -> bool:
    """Whether both files are here."""
    return weights_present(NAME)
