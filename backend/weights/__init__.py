"""Model files: the catalogue, where they lie, fetching and checking them."""
