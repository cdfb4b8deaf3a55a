"""The rows as CSV and as Markdown: objects, mean, median, and what the columns are."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.evaluation.scores import f_name
from backend.evaluation.settings import Settings

SOURCES = {
    "frames": "the generated frames",
    "mesh": "renderings of the textured mesh",
    "splats": "renderings of the Gaussians",
}
PICTURE_FIGURES = ("psnr", "ssim", "perceptual")
NOISE_STATES = (
    "Noise {:g}: each given view is warped smoothly (1 px), scaled (.3 %), shifted (.5 px), and each of its "
    "channels multiplied (2 %): standard deviations at level 1 and 512 px. The judged views are true."
)


@dataclass(frozen=True)
class Row:
    """One object: its figures by column, or why there are none."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""
    reused: bool = False

    @property
    def sentence(self) -> str:
        """For the terminal."""
        if self.error:
            return self.error
        shown = ("chamfer", "iou", "frames_psnr", "mesh_psnr", "splats_psnr")
        words = [f"{name} {self.figures[name]:.4g}" for name in shown if name in self.figures]
        return ("measured before: " if self.reused else "") + ", ".join(words)


def columns(settings: Settings, rows: Sequence[Row] = ()) -> list[str]:
    """All columns of a protocol, in order; with rows, those that one of them has or lacks weights for."""
    protocol = settings.protocol
    sources = ["frames"] if protocol.frames and settings.task == "image" else []
    sources += ["mesh", "splats"]
    names = [f"{source}_{figure}" for source in sources for figure in PICTURE_FIGURES]
    had = set().union(*(row.figures for row in rows))
    parts = [f"{source}_psnr_{part}" for source in ("mesh", "splats") for part in ("on", "off")]
    names += [name for name in parts if protocol.extra or name in had]
    names += ["given_psnr", "input_psnr"] if "given_psnr" in had else ["input_psnr"]
    if protocol.shape is not None:
        names += ["chamfer", *(f_name(t) for t in protocol.shape.thresholds), "iou"]
    names.append("seconds")
    if not had:
        return names
    return [
        name
        for name in names
        if name in had or (name.endswith("perceptual") and name.replace("perceptual", "psnr") in had)
    ]


def summary(rows: list[Row]) -> list[tuple[str, dict[str, float]]]:
    """Mean and median of every column over the objects that have it."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    values = {name: [row.figures[name] for row in rows if name in row.figures] for name in names}
    return [
        (label, {name: float(function(column)) for name, column in values.items()})
        for label, function in (("mean", np.mean), ("median", np.median))
    ]


def csv_table(rows: list[Row]) -> str:
    """Every figure unrounded; the last column says why an object has none."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["object", *names, "error"])
    lines = [(row.name, row.figures, row.error) for row in rows]
    lines += [(label, figures, "") for label, figures in summary(rows)] if names else []
    for label, figures, error in lines:
        writer.writerow([label, *(repr(figures[n]) if n in figures else "" for n in names), error])
    return text.getvalue()


def markdown_table(rows: list[Row], settings: Settings, facts: dict[str, Any]) -> str:
    """The table with the protocol in words in front and the settings behind."""
    protocol, names = settings.protocol, columns(settings, rows)
    task = {"image": "one picture -> 3D", "views": "posed views -> 3D"}[settings.task]
    if settings.noise:
        task += f", noise {settings.noise:g}"
    fitted = settings.task == "image" or settings.placement in ("box", "icp")
    placed = f" Placement: {settings.placement}." if fitted else ""
    if settings.noise:
        placed += " " + NOISE_STATES.format(settings.noise)
    lines = [
        f"# Protocol {protocol.name}: {task}",
        "",
        f"{protocol.source}. {protocol.states}.",
        "",
        f"Chosen where it is open: {protocol.chosen}.{placed}",
        "",
        "| object | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for row in rows:
        lines.append(_line(row.name, row.figures, names))
    if len(rows) > 1:
        lines += [_line(f"**{label}**", figures, names) for label, figures in summary(rows)]
    failures = [f"- {row.name}: {row.error}" for row in rows if row.error]
    if failures:
        lines += ["", "No figures:", "", *failures]
    judged = ", ".join(f"`{name}_` {words}" for name, words in SOURCES.items() if f"{name}_psnr" in names)
    words = ["PSNR in dB, over white: `input_psnr` of the mesh from the input camera"]
    words[0] += ", `given_psnr` from all given cameras." if "given_psnr" in names else "."
    if judged:
        words += [
            f"PSNR and SSIM (Wang 2004) of {judged}: means over the judged views (`_on`, `_off`: those on "
            "the ring, off it).",
            f"Perceptual distance: {facts['perceptual'].rstrip('.')}.",
        ]
    words.append(
        f"Seconds: wall time of the stages. Seed {settings.seed}, Orrery {facts['versions']['orrery']}; "
        "more in environment.json."
    )
    lines += ["", " ".join(words), ""]
    return "\n".join(lines)


def _line(label: str, figures: dict[str, float], names: list[str]) -> str:
    cells = [_cell(name, figures.get(name)) if figures else "-" for name in names]
    return f"| {label} | " + " | ".join(cells) + " |"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "unavailable" if name.endswith("perceptual") else "-"
    digits = 2 if "psnr" in name else 1 if name == "seconds" else 4 if name == "chamfer" else 3
    return f"{value:.{digits}f}"
