"""Texture: UV atlas and its colours."""
