"""Orbit: one cut-out in, N views on a ring out."""
