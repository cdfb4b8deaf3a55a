"""Neural signed distance fields: NeuS with a multi-resolution hash grid, as V3D and Hi3D make meshes.

`engine.py` is what the table of engines names; it imports the rest, which needs torch, when it runs.
"""
