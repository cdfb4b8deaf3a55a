"""Which files of tests one worker runs, one after the other, where pytest-xdist has several."""

from xdist.scheduler import LoadFileScheduling

FAMILIES = {
    "splats": ("tests/unit/test_splat_", "tests/unit/test_rasterize"),
    "surface": tuple(
        f"tests/unit/test_{name}"
        for name in ("carving", "consensus", "decimate", "photo_consistency", "surface", "vessel")
    ),
}
"""Name -> how the names of its files begin."""


class FamilyScheduling(LoadFileScheduling):
    """Whole files, and whole families of files that need the same machine code.

    Two workers that come to the same kernels at once, with a cold cache, would both compile them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((name for name, starts in FAMILIES.items() if file.startswith(starts)), file)
