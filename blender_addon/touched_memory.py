"""Memory whose first touch costs little when Blender takes it on the main thread; no bpy.

A page that the system hands out is the dear part of a new attribute: .5 µs where it was in use a moment ago,
9 µs in a virtual machine whose host took free pages back. Of 9 MB for 720,000 Gaussians that is 5 ms or 25. A
thread that touches as many pages beforehand, and gives them back right before Blender asks for them, keeps it
at 5.
"""

import mmap

import numpy as np

_BLOCK = 1 << 22
_LEAST = 1 << 20
"""Fewer bytes are taken in a moment, whatever they cost."""
_AHEAD = 1 << 25
"""Bytes at most, and at most as many as are asked for, that are given back ahead: the system may hand out
others first, or these to others."""
_PAGE = 4096


class TouchedMemory:
    """Blocks of pages in use, of which `give_back` lets so many go. Made in a thread: it takes a while."""

    def __init__(self, size: int = 0) -> None:
        """size: bytes that will be asked for.

        Nothing is held where they are few, or the system (all but Linux) chooses pages in other ways.
        """
        self._blocks: list[mmap.mmap] = []
        self._owed = ahead = min(size, _AHEAD)
        if size < _LEAST or not hasattr(mmap, "MADV_NOHUGEPAGE"):
            return
        for _ in range(-(-(size + ahead) // _BLOCK)):
            block = mmap.mmap(-1, _BLOCK)
            block.madvise(mmap.MADV_NOHUGEPAGE)  # given back page by page, as Blender takes them
            np.frombuffer(block, np.uint8)[::_PAGE] = 1
            self._blocks.append(block)

    @property
    def size(self) -> int:
        """Bytes still held."""
        return len(self._blocks) * _BLOCK

    def give_back(self, size: int) -> None:
        """Let go of so many bytes and of those ahead, or of what is left; even over several calls."""
        self._owed += size
        while self._owed > 0 and self._blocks:
            self._blocks.pop().close()
            self._owed -= _BLOCK
