"""What flows between stages. Each value turns into named files and back, bit for bit.

Pictures are stored as 8 bits a channel: a stage's output is always handed on as it was stored, so a
resumed run and an undisturbed one see the same numbers.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.eight_bit import EightBit, levels_of
from shared_protocol.errors import InvalidInput


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def quantize(rgba: np.ndarray) -> np.ndarray:
    """float 0..1 -> uint8, rounded; any shape."""
    return levels_of(rgba)


def _camera_arrays(cameras: Cameras) -> dict[str, np.ndarray]:
    return {
        "world_from_camera": cameras.world_from_camera,
        "intrinsics": cameras.intrinsics,
        "size": np.array([cameras.width, cameras.height]),
    }


def _cameras(arrays: Mapping[str, np.ndarray]) -> Cameras:
    width, height = (int(n) for n in arrays["size"])
    return Cameras(arrays["world_from_camera"], arrays["intrinsics"], width, height)


@dataclass(frozen=True)
class Picture:
    """One picture as the user gave it, upright (EXIF applied).

    rgba (H, W, 4) float32, sRGB-encoded 0..1, straight alpha; alpha is 1 where the file has none
    """

    rgba: np.ndarray

    def __post_init__(self) -> None:
        _check_rgba(self.rgba, 3)

    def to_files(self) -> dict[str, bytes]:
        return {"picture.npz": _pack({"rgba": quantize(self.rgba)})}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls(_unpack(files["picture.npz"])["rgba"].astype(np.float32) / 255)


@dataclass(frozen=True)
class Views:
    """N posed pictures of one object, the background cut away.

    rgba       (N, H, W, 4) float32, sRGB-encoded 0..1, straight alpha; as read from files it is kept as
               `EightBit`, whose pictures become float32 as they are taken out: take one at a time
    cameras    N cameras of the same size
    confidence (N,) float32, 0..1: how far each view can be trusted (1 for a photo or a true render,
               less for a generated one); view 0 is the front (input) view
    depth      (N, H, W) float32, metres along the camera axis, inf where nothing is; None where the
               engine knows none
    pixel_confidence  (N, H, W) float32, 0..1, times `confidence`: how far each pixel can be trusted
               (ReconX's maps); None where all pixels of a view are alike
    """

    rgba: np.ndarray | EightBit
    cameras: Cameras
    confidence: np.ndarray = field(default=None)  # type: ignore[assignment]
    depth: np.ndarray | None = None
    pixel_confidence: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_rgba(self.rgba, 4)
        count, height, width = self.rgba.shape[:3]
        if len(self.cameras) != count or (self.cameras.width, self.cameras.height) != (width, height):
            raise InvalidInput(
                f"{count} views of {width}x{height} came with {len(self.cameras)} cameras of "
                f"{self.cameras.width}x{self.cameras.height}",
                "one camera of the same size for each view",
            )
        if self.confidence is None:
            object.__setattr__(self, "confidence", np.ones(count, dtype=np.float32))
        if self.confidence.shape != (count,):
            raise InvalidInput(f"view confidence has shape {self.confidence.shape}", f"({count},)")
        if self.depth is not None and self.depth.shape != (count, height, width):
            raise InvalidInput(f"view depth has shape {self.depth.shape}", f"({count}, {height}, {width})")
        if self.pixel_confidence is not None and self.pixel_confidence.shape != (count, height, width):
            raise InvalidInput(
                f"pixel confidence has shape {self.pixel_confidence.shape}", f"({count}, {height}, {width})"
            )

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def alpha(self) -> np.ndarray | EightBit:
        """(N, H, W) float32, no copy; `EightBit` where the pictures are."""
        return self.rgba.take((..., 3)) if isinstance(self.rgba, EightBit) else self.rgba[..., 3]

    def take(self, kept: np.ndarray) -> Self:
        """These views only; kept (M,) their numbers, or a mask."""
        rgba = self.rgba.take(kept) if isinstance(self.rgba, EightBit) else self.rgba[kept]
        depth, pixels = (None if a is None else a[kept] for a in (self.depth, self.pixel_confidence))
        return type(self)(rgba, self.cameras.take(kept), self.confidence[kept], depth, pixels)

    def to_files(self) -> dict[str, bytes]:
        arrays = _camera_arrays(self.cameras)
        arrays |= {"rgba": quantize(self.rgba), "confidence": self.confidence}
        if self.depth is not None:
            arrays["depth"] = self.depth.astype(np.float32)
        if self.pixel_confidence is not None:
            arrays["pixel_confidence"] = quantize(self.pixel_confidence)
        return {"views.npz": _pack(arrays)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        arrays = _unpack(files["views.npz"])
        rgba = EightBit(arrays["rgba"])
        pixels = arrays.get("pixel_confidence")
        pixels = None if pixels is None else pixels.astype(np.float32) / 255
        return cls(rgba, _cameras(arrays), arrays["confidence"], arrays.get("depth"), pixels)


@dataclass(frozen=True)
class PointCloud:
    """Points with normals and colours.

    positions (P, 3) float32 metres, world; normals (P, 3) float32 unit; colors (P, 3) float32 sRGB 0..1
    """

    positions: np.ndarray
    normals: np.ndarray
    colors: np.ndarray

    def to_files(self) -> dict[str, bytes]:
        arrays = {"positions": self.positions, "normals": self.normals, "colors": self.colors}
        return {"points.npz": _pack(arrays)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls(**_unpack(files["points.npz"]))


@dataclass(frozen=True)
class ViewCorrections:
    """What a fit learned about views that did not quite agree.

    world_from_camera (N, 4, 4) float64 corrected poses
    gains, offsets    (N, 3) float64: a view shows gain * the object's own colour + offset; view 0 shows it
    """

    world_from_camera: np.ndarray
    gains: np.ndarray
    offsets: np.ndarray

    def applied(self, views: Views) -> Views:
        """The views as they agree with one another: corrected cameras, colours of view 0's exposure.

        Views of 8 bits stay so, made one at a time.
        """
        cameras = Cameras(
            self.world_from_camera, views.cameras.intrinsics, views.cameras.width, views.cameras.height
        )
        eight = isinstance(views.rgba, EightBit)
        corrected = np.empty(views.rgba.shape, np.uint8 if eight else np.float32)
        gains, offsets = self.gains.astype(np.float32), self.offsets.astype(np.float32)
        for i in range(len(views)):
            rgba = np.array(views.rgba[i])
            rgba[..., :3] = np.clip((rgba[..., :3] - offsets[i]) / gains[i], 0, 1)
            corrected[i] = levels_of(rgba) if eight else rgba
        return replace(views, rgba=EightBit(corrected) if eight else corrected, cameras=cameras)


@dataclass(frozen=True)
class Splats:
    """3D Gaussians, activated, fitted in sRGB-encoded colour.

    positions  (G, 3) float32 metres, world
    scales     (G, 3) float32 metres, standard deviations along the local axes (exp applied)
    rotations  (G, 4) float32 unit quaternions, wxyz
    opacities  (G,) float32 0..1 (sigmoid applied)
    harmonics  (G, K, 3) float32, spherical-harmonic coefficients in INRIA order, K = 1, 4, 9 or 16;
               colour = 0.5 + sum(Y_k * c_k), sRGB-encoded
    antialiased  whether they were fitted, and are to be drawn, with Mip-Splatting's 2D filter
    corrections  of the views they were fitted to; None where none were learned
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    harmonics: np.ndarray
    antialiased: bool = False
    corrections: ViewCorrections | None = None

    def __post_init__(self) -> None:
        count = len(self.positions)
        shapes = {
            "positions": (count, 3),
            "scales": (count, 3),
            "rotations": (count, 4),
            "opacities": (count,),
        }
        for name, shape in shapes.items():
            value = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if value.shape != shape:
                raise InvalidInput(f"splat {name} have shape {value.shape}", f"{shape}")
            object.__setattr__(self, name, value)
        harmonics = np.ascontiguousarray(self.harmonics, dtype=np.float32)
        if harmonics.ndim != 3 or harmonics.shape[0] != count or harmonics.shape[1:] not in (
            (1, 3), (4, 3), (9, 3), (16, 3),
        ):  # fmt: skip
            raise InvalidInput(f"splat harmonics have shape {harmonics.shape}", f"({count}, 1|4|9|16, 3)")
        object.__setattr__(self, "harmonics", harmonics)

    def __len__(self) -> int:
        return len(self.positions)

    def agreed(self, views: Views) -> Views:
        """The views with what the fit learned about them."""
        return views if self.corrections is None else self.corrections.applied(views)

    def to_files(self) -> dict[str, bytes]:
        names = ("positions", "scales", "rotations", "opacities", "harmonics")
        arrays = {name: getattr(self, name) for name in names}
        arrays["antialiased"] = np.array(self.antialiased)
        if self.corrections is not None:
            arrays |= {f"corrections.{name}": value for name, value in vars(self.corrections).items()}
        return {"splats.npz": _pack(arrays)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        arrays = _unpack(files["splats.npz"])
        learned = {
            name.removeprefix("corrections."): arrays.pop(name)
            for name in list(arrays)
            if name.startswith("corrections.")
        }
        antialiased = bool(arrays.pop("antialiased", False))
        corrections = ViewCorrections(**learned) if learned else None
        return cls(**arrays, antialiased=antialiased, corrections=corrections)


ROUGHNESS = 0.9
"""Of a surface whose gloss nobody knows: matte."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    vertices (V, 3) float32 metres, world; faces (F, 3) int32, counter-clockwise seen from outside
    quads    (Q, 2) int32, pairs of faces that are one quad each: faces (a, b, c) and (a, c, d) are the
             quad a b c d; None for a mesh of triangles
    detail   the mesh before its faces were reduced, or None: what normal maps are baked from
    lods     the same shape with fewer faces, the finest first
    """

    vertices: np.ndarray
    faces: np.ndarray
    quads: np.ndarray | None = None
    detail: "Mesh | None" = None
    lods: "tuple[Mesh, ...]" = ()

    def __post_init__(self) -> None:
        vertices = np.ascontiguousarray(self.vertices, dtype=np.float32)
        faces = np.ascontiguousarray(self.faces, dtype=np.int32)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise InvalidInput(
                f"a mesh has vertices {vertices.shape} and faces {faces.shape}", "(V, 3) and (F, 3)"
            )
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise InvalidInput("a mesh face names a vertex that does not exist", f"0..{len(vertices) - 1}")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        if self.quads is not None:
            object.__setattr__(self, "quads", _checked_quads(self.quads, faces))

    def quad_corners(self) -> np.ndarray:
        """(Q, 4) int32 vertices of the quads, counter-clockwise seen from outside."""
        if self.quads is None:
            return np.zeros((0, 4), dtype=np.int32)
        return np.column_stack([self.faces[self.quads[:, 0]], self.faces[self.quads[:, 1], 2]])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as `from_arrays` reads it."""
        arrays = {"vertices": self.vertices, "faces": self.faces}
        if self.quads is not None:
            arrays["quads"] = self.quads
        if self.detail is not None:
            arrays |= _prefixed("detail", self.detail.arrays())
        for level, lod in enumerate(self.lods, start=1):
            arrays |= _prefixed(f"lod{level}", lod.arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """A mesh without the fields that are not there."""
        detail = _below("detail", arrays)
        return cls(
            arrays["vertices"],
            arrays["faces"],
            arrays.get("quads"),
            cls.from_arrays(detail) if detail else None,
            tuple(cls.from_arrays(lod) for lod in _lods_of(arrays)),
        )

    def to_files(self) -> dict[str, bytes]:
        return {"mesh.npz": _pack(self.arrays())}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls.from_arrays(_unpack(files["mesh.npz"]))


def _checked_quads(quads: np.ndarray, faces: np.ndarray) -> np.ndarray:
    quads = np.ascontiguousarray(quads, dtype=np.int32)
    if quads.ndim != 2 or quads.shape[1] != 2:
        raise InvalidInput(f"the quads of a mesh have shape {quads.shape}", "(Q, 2)")
    if len(quads) and (quads.min() < 0 or quads.max() >= len(faces)):
        raise InvalidInput("a quad names a face that does not exist", f"0..{len(faces) - 1}")
    first, second = faces[quads[:, 0]], faces[quads[:, 1]]
    if len(np.unique(quads)) != quads.size or (first[:, [0, 2]] != second[:, [0, 1]]).any():
        raise InvalidInput("the two faces of a quad do not fit", "(a, b, c) and (a, c, d), each face once")
    return quads


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}


def _lods_of(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    lods = []
    while lod := _below(f"lod{len(lods) + 1}", arrays):
        lods.append(lod)
    return lods


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with one texture atlas.

    mesh     geometry; its vertices are welded (watertight), UVs are per face corner; `detail` and `lods`
             of the mesh are not kept with it
    uvs      (F, 3, 2) float32, 0..1, v up (row 0 of the texture is v = 1), as glTF's flipped
    texture  (T, T, 3) float32, sRGB-encoded base colour, rows from the top
    normal_map  (T, T, 3) float32, 0.5 + 0.5 n: unit normals n in the tangent space of
             `geometry.tangents` (x along u, y along v, z outward), not sRGB; or None
    roughness   of the whole surface, 0 a mirror, 1 chalk
    lods     the same object with fewer faces, the finest first, each with an atlas of its own
    """

    mesh: Mesh
    uvs: np.ndarray
    texture: np.ndarray
    normal_map: np.ndarray | None = None
    roughness: float = ROUGHNESS
    lods: "tuple[TexturedMesh, ...]" = ()

    def __post_init__(self) -> None:
        if self.uvs.shape != (len(self.mesh.faces), 3, 2):
            raise InvalidInput(f"mesh UVs have shape {self.uvs.shape}", f"({len(self.mesh.faces)}, 3, 2)")
        for picture in (self.texture, self.normal_map):
            if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3):
                raise InvalidInput(f"a texture has shape {picture.shape}", "(T, T, 3)")

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as `from_arrays` reads it; pictures as 8 bits a channel."""
        arrays = {
            **replace(self.mesh, detail=None, lods=()).arrays(),
            "uvs": np.asarray(self.uvs, dtype=np.float32),
            "texture": quantize(self.texture),
            "roughness": np.array(self.roughness, dtype=np.float64),
        }
        if self.normal_map is not None:
            arrays["normal_map"] = quantize(self.normal_map)
        for level, lod in enumerate(self.lods, start=1):
            arrays |= _prefixed(f"lod{level}", lod.arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The twin of `arrays`."""
        normals = arrays.get("normal_map")
        return cls(
            Mesh(arrays["vertices"], arrays["faces"], arrays.get("quads")),
            arrays["uvs"],
            arrays["texture"].astype(np.float32) / 255,
            None if normals is None else normals.astype(np.float32) / 255,
            float(arrays.get("roughness", ROUGHNESS)),
            tuple(cls.from_arrays(lod) for lod in _lods_of(arrays)),
        )

    def to_files(self) -> dict[str, bytes]:
        return {"textured_mesh.npz": _pack(self.arrays())}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls.from_arrays(_unpack(files["textured_mesh.npz"]))


@dataclass(frozen=True)
class Exports:
    """The files a user gets: relative POSIX path -> content."""

    files: Mapping[str, bytes]

    def to_files(self) -> dict[str, bytes]:
        return dict(self.files)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls(dict(files))


Value = Picture | Views | PointCloud | Splats | Mesh | TexturedMesh | Exports

BY_NAME: dict[str, type] = {
    cls.__name__: cls for cls in (Picture, Views, PointCloud, Splats, Mesh, TexturedMesh, Exports)
}


def _check_rgba(rgba: np.ndarray | EightBit, dimensions: int) -> None:
    if rgba.ndim != dimensions or rgba.shape[-1] != 4 or rgba.dtype != np.float32:
        raise InvalidInput(
            f"a picture has shape {rgba.shape} and type {rgba.dtype}",
            "(H, W, 4) float32" if dimensions == 3 else "(N, H, W, 4) float32",
        )
