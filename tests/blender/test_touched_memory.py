"""Memory that the import touches beforehand: held as asked, given back to the system."""

import mmap
from pathlib import Path

import pytest

from blender_addon.touched_memory import TouchedMemory

linux = pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="pages are touched on Linux only")
MIB = 1 << 20


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@linux
def test_what_is_held_lies_in_memory_and_leaves_it_again():
    before = resident()
    memory = TouchedMemory(64 * MIB)
    assert memory.size >= 64 * MIB
    assert resident() - before > 60 * MIB
    memory.give_back(64 * MIB)
    assert memory.size == 0
    assert resident() - before < 4 * MIB


@linux
def test_small_sizes_add_up_and_never_give_back_more_than_a_block_too_much():
    memory = TouchedMemory(40 * MIB)
    for _ in range(10):
        memory.give_back(MIB)
    assert 26 * MIB <= memory.size <= 30 * MIB
    memory.give_back(100 * MIB)
    assert memory.size == 0


@pytest.mark.parametrize("size", [0, 4096])
def test_none_is_held_for_little(size):
    memory = TouchedMemory(size)
    assert memory.size == 0
    memory.give_back(MIB)
    assert memory.size == 0
