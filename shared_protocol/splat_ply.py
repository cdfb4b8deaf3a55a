"""Gaussians <-> the PLY layout of INRIA's 3DGS (Kerbl 2023), which every splat viewer reads.

Binary little-endian, one `vertex` element of float properties in this order:
x y z nx ny nz f_dc_0..2 f_rest_0..3(K-1)-1 opacity scale_0..2 rot_0..3. Stored are the values before
activation: opacity as logit, scales as natural logarithm, quaternions wxyz; `f_rest` is channel-major
(all of red, then green, then blue). `SplatArrays` holds them activated, as the rest of the program does.

numpy and the standard library only: this module also runs inside Blender.
"""

from typing import NamedTuple

import numpy as np

from shared_protocol.errors import InvalidInput

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4",
    "float": "<f4", "double": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2",
    "int32": "<i4", "uint32": "<u4", "float32": "<f4", "float64": "<f8",
}  # fmt: skip
_REST_COUNTS = {0: 1, 9: 4, 24: 9, 45: 16}
"""Number of f_rest properties -> coefficients a channel (degrees 0 to 3)."""
_HEADER_LIMIT = 64 * 1024
_LARGEST_LOGIT = 16.0
"""Opacity is stored within sigmoid(+-16): 1 - 1.1e-7 is the last float32 below 1 but one."""
_SMALLEST_SCALE = 1e-30
_EXPECTED = "a Gaussian-splatting PLY (INRIA 3DGS layout, binary little-endian)"
_REMEDY = "Export it again as PLY from the program that trained it."


class SplatArrays(NamedTuple):
    """3D Gaussians, activated.

    positions  (G, 3) float32 metres, world
    scales     (G, 3) float32 metres, standard deviations along the local axes
    rotations  (G, 4) float32 unit quaternions, wxyz
    opacities  (G,) float32 0..1
    harmonics  (G, K, 3) float32, K = 1, 4, 9 or 16; colour = 0.5 + sum(Y_k * c_k), sRGB-encoded
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    harmonics: np.ndarray


def property_names(coefficients: int) -> list[str]:
    """The property names of INRIA's layout for K coefficients a channel, in file order."""
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(3 * (coefficients - 1))),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def write_splat_ply(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    opacities: np.ndarray,
    harmonics: np.ndarray,
) -> bytes:
    """Activated Gaussians (shapes of `SplatArrays`) -> the bytes of a PLY file. Normals are zero.

    Positions, rotations and harmonics come back bit for bit. Scales come back within 1e-5 relative
    and opacities within 1e-7 absolute: the rounding of the stored float32 logarithm and logit.
    """
    count, coefficients = len(positions), np.shape(harmonics)[1]
    names = property_names(coefficients)
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {count}",
            *(f"property float {name}" for name in names),
            "end_header\n",
        ]
    )
    rows = np.zeros((count, len(names)), dtype="<f4")
    rows[:, 0:3] = positions
    rows[:, 6:9] = harmonics[:, 0]
    rest = 9 + 3 * (coefficients - 1)
    rows[:, 9:rest] = np.transpose(harmonics[:, 1:], (0, 2, 1)).reshape(count, rest - 9)
    opacity = np.asarray(opacities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logit = np.log(opacity) - np.log1p(-opacity)
    rows[:, rest] = np.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    rows[:, rest + 1 : rest + 4] = np.log(np.maximum(np.asarray(scales, np.float64), _SMALLEST_SCALE))
    rows[:, rest + 4 : rest + 8] = rotations
    return header.encode("ascii") + rows.tobytes()


def read_splat_ply(data: bytes) -> SplatArrays:
    """The bytes of a PLY file -> activated Gaussians; the order of properties is the header's.

    Properties it does not know (normals, colours) are left out; quaternions are normalised, a zero
    one becomes the identity. Raises InvalidInput for text or big-endian files, other PLY contents
    (meshes, point clouds), a missing property, a truncated body, and values that are not finite.
    """
    count, record, body = _parse_header(data)
    names = record.names or ()
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _REST_COUNTS:
        raise InvalidInput(f"the PLY has {rest} f_rest properties", "0, 9, 24 or 45", _REMEDY)
    coefficients = _REST_COUNTS[rest]
    needed = [name for name in property_names(coefficients) if name not in ("nx", "ny", "nz")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InvalidInput(f"the PLY lacks the property {', '.join(missing[:4])}", _EXPECTED, _REMEDY)
    if len(data) - body < count * record.itemsize:
        raise InvalidInput(
            f"the PLY is truncated: {len(data) - body} bytes of data for {count} Gaussians",
            f"{count * record.itemsize} bytes",
            "Copy or download the file again.",
        )
    floats = {record[name].str for name in names} == {"<f4"}
    rows = np.frombuffer(data, np.dtype("<f4") if floats else record, offset=body,
                         count=count * (len(names) if floats else 1))  # fmt: skip
    if floats:
        # One strided copy a property group; a structured array's fields are several times slower.
        table = rows.reshape(count, len(names))
        column = {name: i for i, name in enumerate(names)}

    def take(*wanted: str) -> np.ndarray:
        if floats:
            indices = [column[name] for name in wanted]
            if indices == list(range(indices[0], indices[0] + len(indices))):
                return table[:, indices[0] : indices[0] + len(indices)].astype(np.float32)
            return table[:, indices].astype(np.float32)
        return np.stack([rows[name] for name in wanted], axis=1).astype(np.float32)

    harmonics = np.empty((count, coefficients, 3), dtype=np.float32)
    harmonics[:, 0] = take("f_dc_0", "f_dc_1", "f_dc_2")
    if rest:
        channel_major = take(*(f"f_rest_{i}" for i in range(rest)))
        harmonics[:, 1:] = channel_major.reshape(count, 3, coefficients - 1).transpose(0, 2, 1)
    with np.errstate(over="ignore"):
        scales = np.exp(take("scale_0", "scale_1", "scale_2"))
        opacities = 1 / (1 + np.exp(-take("opacity")[:, 0].astype(np.float64)))
    splats = SplatArrays(
        take("x", "y", "z"),
        scales,
        _unit_quaternions(take("rot_0", "rot_1", "rot_2", "rot_3")),
        opacities.astype(np.float32),
        harmonics,
    )
    for name, values in splats._asdict().items():
        if not np.isfinite(values).all():
            raise InvalidInput(f"the PLY holds {name} that are not finite numbers", _EXPECTED, _REMEDY)
    return splats


def _unit_quaternions(rotations: np.ndarray) -> np.ndarray:
    """(G, 4) float32 of any length -> unit length; those within 1e-6 of it stay as they are."""
    length = np.linalg.norm(rotations.astype(np.float64), axis=1)
    off = np.abs(length - 1) > 1e-6
    rotations[off] = rotations[off] / np.where(length[off] > 0, length[off], 1)[:, None]
    rotations[length == 0] = (1, 0, 0, 0)
    return rotations


def _parse_header(data: bytes) -> tuple[int, np.dtype, int]:
    """PLY bytes -> number of vertices, the record of one of them, offset of the first."""
    if not data[:4].strip() == b"ply":
        raise InvalidInput("the file is not a PLY file", _EXPECTED, _REMEDY)
    end = data.find(b"end_header", 0, _HEADER_LIMIT)
    newline = data.find(b"\n", end) if end >= 0 else -1
    if newline < 0:
        raise InvalidInput("the PLY header has no end", _EXPECTED, "Copy or download the file again.")
    count, fields, inside, before = -1, [], "", 0
    for line in data[:end].decode("ascii", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            if words[1:] != ["binary_little_endian", "1.0"]:
                raise InvalidInput(f"the PLY format is '{' '.join(words[1:])}'", _EXPECTED, _REMEDY)
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit():
            inside = words[1]
            if inside == "vertex":
                count = int(words[2])
            elif count < 0:
                before += int(words[2])
        elif words[0] == "property" and inside == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise InvalidInput(f"the PLY has the line '{line.strip()}'", _EXPECTED, _REMEDY)
            fields.append((words[2], _TYPES[words[1]]))
        elif words[0] != "property" or not inside:
            raise InvalidInput(f"the PLY header has the line '{line.strip()[:80]}'", _EXPECTED, _REMEDY)
    names = [name for name, _ in fields]
    if count < 0 or before or len(set(names)) != len(names):
        raise InvalidInput("the PLY does not begin with a list of distinct vertices", _EXPECTED, _REMEDY)
    return count, np.dtype(fields), newline + 1
