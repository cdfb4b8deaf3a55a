"""What can be asked for: one entry a source, each with its recipe, its inputs and how they are chosen.

The panel and *Generate* know no source by name: another kind of job is another entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import bpy

from . import picture
from .properties import FROM_FILE, FROM_IMAGE, FROM_SIDES, FROM_TEXT, SIDES, OrrerySettings
from .sending import Reader

Inputs = tuple[str, tuple[tuple[str, Reader], ...]]
"""Name of the job, and (file name, reader) of each input."""


@dataclass(frozen=True)
class JobType:
    """One kind of job.

    source   the setting that chooses it
    recipe   what the backend is asked to run
    missing  what the user has still to do, "" when all is there
    inputs   reads the settings, on the main thread; raises OrreryError
    draw     the choice of the inputs
    without  why not, where the backend has no such recipe
    """

    source: str
    recipe: str
    missing: Callable[[OrrerySettings], str]
    inputs: Callable[[OrrerySettings], Inputs]
    draw: Callable[[bpy.types.UILayout, OrrerySettings], None]
    without: str = "This backend is too old for it; update it"


def _from_file(chosen: OrrerySettings) -> Inputs:
    name, read = picture.from_file(chosen.path)
    return name, ((picture.file_name(chosen.path), read),)


def _draw_file(layout: bpy.types.UILayout, chosen: OrrerySettings) -> None:
    layout.prop(chosen, "path", text="", placeholder="A picture of one object")
    _draw_takes(layout)


def _from_image(chosen: OrrerySettings) -> Inputs:
    name, read = picture.from_image(chosen.image)
    return name, ((f"{name}.png", read),)


def _draw_image(layout: bpy.types.UILayout, chosen: OrrerySettings) -> None:
    layout.template_ID(chosen, "image", open="image.open")
    _draw_takes(layout)


def _draw_takes(layout: bpy.types.UILayout) -> None:
    row = layout.row(align=True)
    row.operator("orrery.render_viewport", icon="RESTRICT_RENDER_OFF")
    row.operator("orrery.paste_image", icon="PASTEDOWN")


def sides_given(chosen: OrrerySettings) -> list[str]:
    """The sides that have an image."""
    return [side for side in SIDES if getattr(chosen, f"side_{side}") is not None]


def _from_sides(chosen: OrrerySettings) -> Inputs:
    found = [(side, *picture.from_image(getattr(chosen, f"side_{side}"))) for side in sides_given(chosen)]
    return found[0][1], tuple((f"{side}.png", read) for side, _, read in found)


def _draw_sides(layout: bpy.types.UILayout, chosen: OrrerySettings) -> None:
    for side in SIDES:
        row = layout.split(factor=0.2)
        row.label(text=side.title())
        row.template_ID(chosen, f"side_{side}", open="image.open")


def _missing_sides(chosen: OrrerySettings) -> str:
    if chosen.side_front is None:
        return "Choose an image of the front first"
    return "" if len(sides_given(chosen)) > 1 else "Choose an image of one more side"


JOB_TYPES = (
    JobType(
        FROM_FILE, "image_to_3d",
        lambda chosen: "" if chosen.path.strip() else "Choose a picture file first",
        _from_file, _draw_file,
    ),
    JobType(
        FROM_IMAGE, "image_to_3d",
        lambda chosen: "" if chosen.image is not None else "Choose an image first",
        _from_image, _draw_image,
    ),
    JobType(
        FROM_SIDES, "sides_to_3d", _missing_sides, _from_sides, _draw_sides,
    ),
    JobType(
        FROM_TEXT, "text_to_3d",
        lambda chosen: "" if chosen.prompt.strip() else "Write what to make first",
        lambda chosen: (chosen.prompt[:40], (("prompt.txt", lambda text=chosen.prompt: text.encode()),)),
        lambda layout, chosen: layout.prop(chosen, "prompt", text="", placeholder="What to make, in words"),
        without="No engine of this backend takes a text",
    ),
)  # fmt: skip


def job_type(chosen: OrrerySettings) -> JobType:
    """The one that is chosen."""
    return next(kind for kind in JOB_TYPES if kind.source == chosen.source)


def why_not(kind: JobType, recipes: tuple[str, ...]) -> str:
    """Why the backend cannot do it, "" when it can or has not been asked."""
    return "" if not recipes or kind.recipe in recipes else kind.without
