"""Orrery's local backend: pictures in, textured meshes and Gaussian splats out."""

__version__ = "0.1.0"
