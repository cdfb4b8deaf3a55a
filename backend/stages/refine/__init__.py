"""Refine: the orbit at its final size."""
