"""Checks a GLB against the rules of the glTF 2.0 specification, independently of how we write it."""

import json
import struct

import numpy as np

_COMPONENT = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def read_glb(data: bytes) -> tuple[dict, bytes]:
    """The JSON and the binary chunk; asserts the container's rules (section 4.4)."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    chunks, offset = [], 12
    while offset < len(data):
        size, kind = struct.unpack_from("<II", data, offset)
        assert size % 4 == 0 and offset % 4 == 0
        chunks.append((kind, data[offset + 8 : offset + 8 + size]))
        offset += 8 + size
    assert [kind for kind, _ in chunks] == [0x4E4F534A, 0x004E4942]
    return json.loads(chunks[0][1]), chunks[1][1]


def accessor(document: dict, binary: bytes, index: int) -> np.ndarray:
    """An accessor's numbers; asserts bounds and alignment (section 3.6.2)."""
    entry = document["accessors"][index]
    view = document["bufferViews"][entry["bufferView"]]
    dtype = np.dtype(_COMPONENT[entry["componentType"]])
    start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
    width = _WIDTH[entry["type"]]
    size = entry["count"] * width * dtype.itemsize
    assert start % dtype.itemsize == 0
    assert entry.get("byteOffset", 0) + size <= view["byteLength"]
    assert view.get("byteOffset", 0) + view["byteLength"] <= document["buffers"][view["buffer"]]["byteLength"]
    values = np.frombuffer(binary, dtype, entry["count"] * width, start)
    return values.reshape(entry["count"], width) if width > 1 else values


def check_glb(data: bytes) -> dict:
    """Assert what Khronos' validator asserts of a plain textured mesh; returns its arrays by name."""
    document, binary = read_glb(data)
    assert document["asset"]["version"] == "2.0"
    assert 0 <= len(binary) - document["buffers"][0]["byteLength"] <= 3
    (primitive,) = document["meshes"][0]["primitives"]
    arrays = {name: accessor(document, binary, i) for name, i in primitive["attributes"].items()}
    indices = accessor(document, binary, primitive["indices"])
    positions = arrays["POSITION"]
    entry = document["accessors"][primitive["attributes"]["POSITION"]]
    assert entry["min"] == positions.min(axis=0).tolist() and entry["max"] == positions.max(axis=0).tolist()
    assert len({len(values) for values in arrays.values()}) == 1
    assert indices.max() < len(positions) and len(indices) % 3 == 0
    assert np.array_equal(np.unique(indices), np.arange(len(positions)))  # nothing unused
    assert np.isfinite(positions).all()
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=5e-4)
    assert arrays["TEXCOORD_0"].min() >= 0 and arrays["TEXCOORD_0"].max() <= 1
    image = document["images"][0]
    view = document["bufferViews"][image["bufferView"]]
    assert "target" not in view and image["mimeType"] == "image/png"
    png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    material = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
    texture = document["textures"][material["baseColorTexture"]["index"]]
    assert texture["source"] == 0 and texture["sampler"] < len(document["samplers"])
    return arrays | {"indices": indices.reshape(-1, 3), "png": png, "material": material}
