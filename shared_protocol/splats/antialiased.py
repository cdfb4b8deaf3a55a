"""Whether Gaussians were trained with Mip-Splatting's 2D filter (Yu 2024), which GSplat calls "antialiased".

What the low-pass widens must then get fainter by the same share, or thin Gaussians look too thick. A file
says so, or nothing:

    PLY, compressed PLY  comment SplatRenderMode: mip | default    (Brush, GSplat)
                         comment antialiased 1 | 0                 (Postshot); the last one counts
    SPZ                  bit 0 of the header's flags               (Niantic)

Written is the first. A .splat has no place for it.
"""

import zlib

from shared_protocol.splats.elements import comments
from shared_protocol.splats.spz import ANTIALIASED, GZIP_MAGIC, HEADER, MAGIC

COMMENT = "SplatRenderMode: mip"
_MEANINGS = {
    "splatrendermode: mip": True,
    "splatrendermode: default": False,
    "antialiased 1": True,
    "antialiased 0": False,
}


def declared_antialiased(data: bytes | memoryview) -> bool:
    """What the content of a file says of itself; False where it is broken or says nothing."""
    start = bytes(data[:4])
    if start[:3] == b"ply":
        said = [
            _MEANINGS[words]
            for line in comments(data)
            if (words := " ".join(line.lower().split())) in _MEANINGS
        ]
        return bool(said and said[-1])
    head = b""
    if start == MAGIC:
        head = bytes(data[: HEADER.size])
    elif start[:2] == GZIP_MAGIC:
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data[:4096], HEADER.size)
        except zlib.error:
            return False
    if len(head) < HEADER.size or head[:4] != MAGIC:
        return False
    *_, flags, _ = HEADER.unpack(head)
    return bool(flags & ANTIALIASED)
