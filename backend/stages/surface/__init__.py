"""Surface: one closed mesh from posed views."""
