"""Pure functions on arrays: cameras, rasterisation, carving, metrics. Knows no stage."""
