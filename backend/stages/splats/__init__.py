"""Gaussians from posed views."""
