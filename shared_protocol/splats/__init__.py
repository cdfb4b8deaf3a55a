"""Gaussian-splat files: PLY (INRIA, compressed), SPZ and .splat, read and written with numpy alone.

Why our own code where libraries exist (measured at 500,000 Gaussians of degree 3, `benchmarks.formats`):
the add-on reads and writes the same files inside Blender, whose Python has numpy but no compiler and no
Numba. `gsply` (MIT) needs Numba; `gaussforge` (Apache-2.0) is a binary wheel that would have to be shipped
for every platform and Python of Blender, and takes seconds for an SPZ. numpy stays well below one second
for every format, so one implementation serves both sides, and the two libraries are the tests' independent
readers and writers.

    arrays      SplatArrays (activated), StoredSplats (as files hold them)
    turn        rotation of Gaussians with their harmonics
    elements    PLY headers and tables        ply, compressed_ply    the two PLY layouts
    spz         Niantic's SPZ                 dot_splat              antimatter15's .splat
    antialiased whether a file says that it was trained with Mip-Splatting's filter
    files       recognise, read, write
"""
