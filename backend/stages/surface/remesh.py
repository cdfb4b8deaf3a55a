"""Remeshes with Instant Meshes, in a process of its own: `python remesh.py IN.npz OUT.npz`.

The library writes to the terminal and holds the interpreter lock for seconds: in its own process it can
be watched, killed and kept silent. This file imports nothing of ours.

IN   vertices (V, 3) float32, faces (F, 3) uint32, quads (the number wanted)
OUT  vertices (U, 3) float32, quads (Q, 4) uint32
"""

import sys

import numpy as np
import pynanoinstantmeshes


def main() -> None:
    """Read IN, write OUT."""
    source, target = sys.argv[1:]
    with np.load(source) as data:
        # The last step cuts every face into quads, four of a quad.
        vertices, quads = pynanoinstantmeshes.remesh(
            data["vertices"],
            data["faces"],
            -1,
            face_count=max(int(data["quads"]) // 4, 8),
            creaseAngle=-1.0,
            smooth_iter=2,
            deterministic=True,
        )
    np.savez(target, vertices=vertices, quads=quads)


if __name__ == "__main__":
    main()
