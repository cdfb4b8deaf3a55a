"""turntable.png: input, cut-out, orbit, mesh and Gaussians on one page, to judge a result at a glance."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.geometry.mesh_render import render_clay, render_mesh
from backend.geometry.rasterize import rasterize
from backend.pipeline.values import Picture, Splats, TexturedMesh, Views, quantize
from backend.stages.export.viewpoints import around_object, front_elevation

WIDTH = 1800
_MARGIN, _GAP, _CAPTION, _BETWEEN = 36, 8, 30, 14
_PAGE, _CELL = (247, 247, 245), (226, 226, 224)
_INK, _SOFT_INK = (40, 42, 46), (110, 112, 118)
_ORBIT_COLUMNS, _ORBIT_ROWS = 4, 2

_TURNS = (("front", 0, None), ("45°", 45, None), ("90°", 90, None), ("180°", 180, None),
          ("270°", 270, None), ("above", 30, 60.0), ("below", 30, -60.0))  # fmt: skip
"""Caption, azimuth and elevation (None: that of the front view) of the renders."""


SHEET_STEPS = 1 + 3 * len(_TURNS)
"""How often `contact_sheet` calls `on_step`."""


@dataclass
class _Page:
    """A page that grows downward."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    y: int = _MARGIN

    @classmethod
    def blank(cls, height: int) -> "_Page":
        image = Image.new("RGB", (WIDTH, height), _PAGE)
        return cls(image, ImageDraw.Draw(image))

    def text(self, x: int, y: int, text: str, size: int, color: tuple[int, int, int]) -> None:
        self.draw.text((x, y), text, fill=color, font=ImageFont.load_default(size=size))

    def text_width(self, text: str, size: int) -> int:
        return int(self.draw.textlength(text, font=ImageFont.load_default(size=size)))

    def paste(self, x: int, y: int, cell: np.ndarray) -> None:
        self.image.paste(Image.fromarray(cell), (x, y))


def contact_sheet(
    picture: Picture,
    views: Views,
    splats: Splats,
    textured: TexturedMesh,
    on_step: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """(H, 1800, 3) uint8. `on_step` is called before every render, with words for the user."""
    inner = WIDTH - 2 * _MARGIN
    columns = len(_TURNS)
    cell = (inner - (columns - 1) * _GAP) // columns
    small = (inner - 2 * _MARGIN - (_ORBIT_COLUMNS + 1) * _GAP) // (2 * _ORBIT_ROWS + _ORBIT_COLUMNS)
    large = _ORBIT_ROWS * small + (_ORBIT_ROWS - 1) * _GAP
    height = 3 * _MARGIN + _CAPTION + large + 3 * (_CAPTION + cell + _CAPTION) + 2 * _BETWEEN
    page = _Page.blank(height)

    on_step("Drawing the pictures")
    top = page.y + _CAPTION
    page.text(_MARGIN, page.y, "Input", 20, _INK)
    page.paste(_MARGIN, top, _fit(picture.rgba, large))
    x = _MARGIN + large + _MARGIN
    page.text(x, page.y, "Cut-out", 20, _INK)
    page.paste(x, top, _fit(views.rgba[0], large))
    x += large + _MARGIN
    shown = _spread(len(views), _ORBIT_COLUMNS * _ORBIT_ROWS)
    page.text(x, page.y, f"Views ({len(shown)} of {len(views)})", 20, _INK)
    for place, view in enumerate(shown):
        row, column = divmod(place, _ORBIT_COLUMNS)
        page.paste(x + column * (small + _GAP), top + row * (small + _GAP), _fit(views.rgba[view], small))
    page.y = top + large + _MARGIN

    mesh = textured.mesh
    front = views.cameras.take([0])
    level = front_elevation(mesh.vertices, front)
    directions = [(turn, level if up is None else up) for _, turn, up in _TURNS]
    cameras = around_object(mesh.vertices, front, directions, cell)
    background = tuple(value / 255 for value in _CELL)
    tell = lambda text: lambda view: on_step(f"{text} {_TURNS[view][0]}")  # noqa: E731
    rows = (
        (
            "Mesh, textured",
            f"{len(mesh.faces):,} triangles, {textured.texture.shape[0]} px texture",
            lambda: render_mesh(
                mesh.vertices, mesh.faces, textured.uvs, textured.texture, cameras, supersample=3,
                background=background, on_view=tell("Drawing the mesh:"),
            )[..., :3],
        ),
        (
            "Mesh, shape",
            "",
            lambda: render_clay(
                mesh.vertices, mesh.faces, cameras, supersample=3, background=background,
                on_view=tell("Drawing the shape:"),
            )[..., :3],
        ),
        (
            "Gaussians",
            f"{len(splats):,}",
            lambda: np.stack(
                [_splat_picture(splats, cameras, view, background, tell("Drawing the Gaussians:"))
                 for view in range(columns)]
            ),
        ),
    )  # fmt: skip
    for title, detail, render in rows:
        page.text(_MARGIN, page.y, title, 20, _INK)
        page.text(_MARGIN + page.text_width(title, 20) + 14, page.y + 4, detail, 16, _SOFT_INK)
        page.y += _CAPTION
        for column, cell_picture in enumerate(quantize(render())):
            x = _MARGIN + column * (cell + _GAP)
            page.paste(x, page.y, cell_picture)
            page.text(x + 2, page.y + cell + 5, _TURNS[column][0], 16, _SOFT_INK)
        page.y += cell + _CAPTION + _BETWEEN
    return np.asarray(page.image)


def _splat_picture(splats, cameras, view, background, on_view) -> np.ndarray:
    on_view(view)
    return rasterize(
        splats, cameras.take([view]), background=background, antialiased=splats.antialiased,
        differentiable=False,
    ).color[0]  # fmt: skip


def _spread(count: int, places: int) -> list[int]:
    """At most `places` of `count` indices, evenly spread, beginning with 0."""
    return (
        sorted({count * place // places for place in range(places)}) if count > places else list(range(count))
    )


def _fit(rgba: np.ndarray, edge: int) -> np.ndarray:
    """(edge, edge, 3) uint8: the whole picture, centred on a plain cell."""
    height, width = rgba.shape[:2]
    scale = edge / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.clip(cv2.resize(premultiplied, size, interpolation=method), 0, 1)
    cell = np.full((edge, edge, 3), np.array(_CELL, dtype=np.float32) / 255, dtype=np.float32)
    top, left = (edge - size[1]) // 2, (edge - size[0]) // 2
    part = cell[top : top + size[1], left : left + size[0]]
    part[:] = part * (1 - small[..., 3:]) + small[..., :3]
    return quantize(cell)
