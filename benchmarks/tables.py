"""Tables of docs/reconstruction.md: `python -m benchmarks.tables OUT/table.json...`, of `benchmarks.heldout`.

One table a file: the product's figures, the plain hull's in brackets, medians, what is below a hull; for the
objects that the prototypes were measured on, a second table beside theirs.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baseline import PROTOTYPES

COMPARED = {
    "chamfer": "Chamfer", "f_005": "F@.005", "f_01": "F@.01", "iou": "IoU", "mid_psnr": "on the orbit",
    "off_psnr": "off it",
}  # fmt: skip
ALONE = {"front_psnr": "front", "charts": "charts", "seconds": "s", "cpu": "CPU s", "extra_mib": "MiB"}
DIGITS = {"chamfer": 4, "f_005": 3, "f_01": 3, "iou": 3, "mid_psnr": 1, "off_psnr": 1, "front_psnr": 1}

NOISE = {
    "chamfer": 2e-5, "f_005": 1e-3, "f_01": 1e-3, "f_02": 1e-3, "iou": 5e-4, "mid_psnr": 0.02,
    "off_psnr": 0.02,
}  # fmt: skip
"""What two samplings of one surface differ by: less than this is not below."""

Row = Mapping[str, Any]


def below(row: Row, baseline: Row) -> list[str]:
    """The figures of `row` that are worse, and by how much."""
    found = []
    for name, noise in NOISE.items():
        if name in row:
            lost = (row[name] - baseline[name]) * (1 if name == "chamfer" else -1)
            if lost > noise:
                found.append(f"{name} by {text(name, lost)}")
    return found


def text(name: str, value: float | None) -> str:
    """.0031 rather than 0.0031; empty where there is no figure."""
    if value is None:
        return ""
    shown = f"{value:.{DIGITS.get(name, 0)}f}"
    return shown.removeprefix("0") if shown.startswith("0.") else shown


def line(label: str, row: Row, hull: Row | None) -> str:
    """One row of the table."""
    cells = [text(n, row.get(n)) + (f" ({text(n, hull.get(n))})" if hull else "") for n in COMPARED]
    return "| " + " | ".join([label, *cells, *(text(name, row.get(name)) for name in ALONE)]) + " |"


def medians(rows: list[Row], names: Mapping[str, str]) -> dict[str, float]:
    """Of the columns that all rows have."""
    found = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if rows and None not in values:
            found[name] = float(np.median(values))
    return found


def against_hull(results: Mapping[str, Row]) -> list[str]:
    """Product (hull)."""
    names = [*COMPARED.values(), *ALONE.values()]
    lines = ["| object | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    hulls = [row["baselines"]["hull"] for row in results.values() if "hull" in row["baselines"]]
    for name, row in results.items():
        lines.append(line(name, row, row["baselines"].get("hull")))
    ours = medians(list(results.values()), COMPARED | ALONE)
    lines.append(line(f"**median of {len(results)}**", ours, medians(hulls, COMPARED) if hulls else None))
    lost = {
        f"{name} ({other})": ", ".join(found)
        for name, row in results.items()
        for other, figures in row["baselines"].items()
        if (found := below(row, figures))
    }
    words = "; ".join(f"{name}: {found}" for name, found in lost.items())
    return [*lines, "", f"Below a hull: {words or 'nothing, on any figure of any object'}."]


def against_prototypes(results: Mapping[str, Row]) -> list[str]:
    """Product (best prototype)."""
    shared = [name for name in results if name in PROTOTYPES]
    if not shared:
        return []
    figures = list(PROTOTYPES[shared[0]])
    lines = ["", "| object | " + " | ".join(COMPARED[name] for name in figures) + " |"]
    lines.append("| --- |" + " ---: |" * len(figures))
    for name in shared:
        cells = [f"{text(n, results[name][n])} ({text(n, PROTOTYPES[name][n])})" for n in figures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def document(results: Mapping[str, Row]) -> list[str]:
    """Both."""
    return [*against_hull(results), *against_prototypes(results), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.json")
    for path in parser.parse_args().tables:
        sys.stdout.write("\n".join([*document(json.loads(path.read_text())), ""]))


if __name__ == "__main__":
    main()
