"""results.png: one panel a figure, a bar an object, lines at mean and median. And pictures to look at."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.evaluation.scores import WHITE
from backend.evaluation.settings import Settings
from backend.evaluation.tables import Row, columns, summary
from backend.geometry.mesh_render import over
from backend.pipeline.values import quantize

_PAGE, _INK, _SOFT, _GRID = (255, 255, 255), (40, 42, 46), (110, 112, 118), (228, 228, 226)
_BAR, _BAR_ALT = (86, 124, 168), (226, 146, 92)
_MEAN, _MEDIAN = (196, 62, 62), (52, 140, 92)
_COLUMN, _PANEL, _MARGIN = 546, 190, 36
_LABELS = 110
"""Pixels below a column of panels for the objects' names."""
_MOST_NAMES = 40

TITLES = {
    "psnr": "PSNR, dB (more is better)",
    "psnr_on": "PSNR on the ring, dB",
    "psnr_off": "PSNR off the ring, dB",
    "ssim": "SSIM (more is better)",
    "perceptual": "perceptual distance (less is better)",
    "chamfer": "Chamfer distance (less is better)",
    "iou": "volume IoU (more is better)",
    "seconds": "seconds",
}


def draw_plot(rows: list[Row], settings: Settings) -> bytes:
    """PNG bytes. Figures that no object has are left out."""
    panels = [n for n in columns(settings, rows) if any(n in row.figures for row in rows)]
    in_row = 2 if len(panels) <= 8 else 3
    per_column = -(-len(panels) // in_row) if panels else 0
    width, height = in_row * (_COLUMN + _MARGIN) + _MARGIN, _MARGIN + 30 + per_column * _PANEL + _LABELS
    image = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(image)
    protocol = settings.protocol
    noise = f", noise {settings.noise:g}" if settings.noise else ""
    title = f"Protocol {protocol.name}, task {settings.task}{noise}: {len(rows)} objects"
    draw.text((_MARGIN, _MARGIN - 12), title, fill=_INK, font=_font(20))
    draw.text((width - 230, _MARGIN - 8), "mean", fill=_MEAN, font=_font(15))
    draw.text((width - 170, _MARGIN - 8), "median (dashed)", fill=_MEDIAN, font=_font(15))
    lines = dict(summary(rows))
    for index, name in enumerate(panels):
        column, place = divmod(index, per_column)
        left, top = _MARGIN + column * (_COLUMN + _MARGIN), _MARGIN + 30 + place * _PANEL
        marks = (lines["mean"][name], lines["median"][name])
        _panel(draw, rows, name, left, top, marks)
        if place == per_column - 1 or index == len(panels) - 1:
            _names(image, rows, left, top + _PANEL - 14)
    if not panels:
        draw.text((_MARGIN, _MARGIN + 24), "No object has figures.", fill=_SOFT, font=_font(16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _panel(
    draw: ImageDraw.ImageDraw,
    rows: list[Row],
    name: str,
    left: int,
    top: int,
    marks: tuple[float, float],
) -> None:
    width = _COLUMN
    source, _, figure = name.partition("_") if name.partition("_")[2] in TITLES else ("", "", name)
    source = {"input": "mesh, from the input view", "given": "mesh, from the given views"}.get(source, source)
    title = TITLES.get(figure, f"F-score at 0.{name.removeprefix('f_')} (more is better)")
    draw.text((left, top), f"{source}: {title}" if source else title, fill=_INK, font=_font(14))
    low, high, ticks = _axis([row.figures[name] for row in rows if name in row.figures])
    axis_left, axis_top, axis_bottom = left + 52, top + 24, top + _PANEL - 22

    def y(value: float) -> float:
        return axis_bottom - (value - low) / (high - low) * (axis_bottom - axis_top)

    for tick in ticks:
        draw.line((axis_left, y(tick), left + width, y(tick)), fill=_GRID)
        draw.text((axis_left - 6, y(tick)), f"{tick:g}", fill=_SOFT, font=_font(11), anchor="rm")
    slot = (left + width - axis_left) / len(rows)
    for index, row in enumerate(rows):
        if name in row.figures:
            start = axis_left + (index + 0.15) * slot
            bar_top, end = y(row.figures[name]), start + max(1.0, 0.7 * slot)
            draw.rectangle((start, bar_top, end, axis_bottom), fill=_BAR if source else _BAR_ALT)
            if slot >= 44:
                words = f"{row.figures[name]:.3g}"
                inside = axis_bottom - bar_top > 16
                place = ((start + end) / 2, axis_bottom - 8 if inside else bar_top - 8)
                draw.text(place, words, _PAGE if inside else _SOFT, _font(11), anchor="mm")
    mean, median = map(y, marks)
    draw.line((axis_left, mean, left + width, mean), fill=_MEAN, width=2)
    for start in range(axis_left, left + width, 12):
        draw.line((start, median, min(start + 6, left + width), median), fill=_MEDIAN, width=2)
    draw.line((axis_left, axis_bottom, left + width, axis_bottom), fill=_SOFT)


def _axis(values: list[float]) -> tuple[float, float, list[float]]:
    """Bottom, top and ticks of an axis from 0 (or below) past the largest value."""
    finite = [value for value in values if np.isfinite(value)]
    top, bottom = max([*finite, 0.0]), min([*finite, 0.0])
    span = (top - bottom) or 1.0
    step = 10 ** np.floor(np.log10(span / 3))
    step *= next(f for f in (1, 2, 5, 10) if span / (f * step) <= 4.5)
    low = float(np.floor(bottom / step) * step)
    high = float(np.ceil((top or span) / step + 0.05) * step)
    if max(finite, default=0) <= 1 < high:  # shares end at 1
        high = 1.0
    return low, high, [round(t, 10) for t in np.arange(low, high + step / 2, step)]


def _names(image: Image.Image, rows: list[Row], left: int, top: int) -> None:
    """Names of the objects, read upward, under their bars."""
    axis_left = left + 52
    slot = (left + _COLUMN - axis_left) / len(rows)
    if len(rows) > _MOST_NAMES:
        return
    for index, row in enumerate(rows):
        text = row.name if len(row.name) <= 16 else row.name[:15] + "."
        label = Image.new("RGB", (_LABELS, 16), _PAGE)
        ImageDraw.Draw(label).text((_LABELS - 2, 8), text, fill=_SOFT, font=_font(12), anchor="rm")
        image.paste(label.rotate(90, expand=True), (round(axis_left + (index + 0.5) * slot - 8), top))


def contact_rows(rows: dict[str, np.ndarray], most: int = 6, edge: int = 224) -> np.ndarray:
    """(H, W, 3) uint8: truth, frames, mesh, splats (N, h, w, 3 or 4), at most `most` views of each."""
    count = max(len(views) for views in rows.values())
    shown = sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})
    page = Image.new("RGB", (80 + edge * len(shown), edge * len(rows)), _PAGE)
    draw = ImageDraw.Draw(page)
    for index, (name, views) in enumerate(rows.items()):
        draw.text((8, edge * index + edge // 2), name, fill=_INK, font=_font(15), anchor="lm")
        for column, view in enumerate(shown):
            if view < len(views):
                picture = views[view]
                picture = over(picture, WHITE) if picture.shape[-1] == 4 else picture
                cell = Image.fromarray(quantize(picture)).resize((edge, edge), Image.Resampling.BOX)
                page.paste(cell, (80 + edge * column, edge * index))
    return np.asarray(page)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
