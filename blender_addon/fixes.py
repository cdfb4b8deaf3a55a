"""An error, or an engine that is not ready -> the buttons that mend it; no bpy."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from shared_protocol.errors import OrreryError


@dataclass(frozen=True)
class Fix:
    """A button: its words, the operator and what it is given."""

    label: str
    operator: str
    icon: str = "TOOL_SETTINGS"
    properties: dict[str, Any] = field(default_factory=dict)


START = Fix("Start Backend", "orrery.connect", "PLAY")
RECONNECT = Fix("Reconnect", "orrery.connect", "FILE_REFRESH")
INSTALL = Fix("Install Backend", "orrery.install_backend", "IMPORT")
UPDATE = Fix("Update Backend", "orrery.install_backend", "FILE_REFRESH")
REPAIR = Fix("Repair Backend", "orrery.repair_backend")
LOG = Fix("Open Log", "orrery.show_log", "TEXT")
ONLINE = Fix("Allow Online Access", "orrery.show_preferences", "URL", {"section": "SYSTEM"})
SETTINGS = Fix("Orrery's Preferences", "orrery.show_preferences", "PREFERENCES", {"section": "ADDONS"})
TOKEN = Fix("Set Token", "orrery.show_preferences", "LOCKED", {"section": "ADDONS"})

OF_THE_PICTURE = ("invalid_input", "limit_exceeded", "stage_failed")
"""Codes of errors that the same picture with the same settings would bring again."""

NEED_NETWORK = ("orrery.install_backend", "orrery.repair_backend", "orrery.pull_weights")

_PULL = re.compile(r"models pull ((?:[\w.-]+ ?)+)")
_TORCH = re.compile(r"orrery\[models\]")
_PAGE = re.compile(r"https://\S+[^\s.,)]")


def of_error(error: OrreryError, job: str = "", retry: bool = False) -> list[Fix]:
    """The buttons beside an error, the likeliest first; job: the one that failed, "" for none; retry: its
    pictures are here."""
    text = f"{error.found} {error.remedy}"
    found: list[Fix] = []
    if error.code == "not_reachable":
        if "no Python with the backend" in text:
            found = [INSTALL, SETTINGS]
        elif "connection file" in text:
            found = [SETTINGS]
        elif "ended with code" in text or "stopped" in text or "does not answer" in text:
            found = [START, LOG]
        else:
            found = [START]
    elif error.code == "unauthorized":
        found = [ONLINE if "offline" in text else SETTINGS]
    elif error.code == "protocol_mismatch":
        found = [UPDATE]
    elif error.code in ("engine_unavailable", "weights_error"):
        found = of_remedy(text)
    elif error.code in ("internal_error", "worker_crashed"):
        found = [replace(LOG, properties={"job": job}) if job else LOG]
    if error.details.get("log") and all(fix.operator != LOG.operator for fix in found):
        found.append(LOG)
    if retry and error.code in OF_THE_PICTURE:
        found.append(Fix("Change and Retry", "orrery.retry_with_changes", "GREASEPENCIL", {"job": job}))
    elif retry:
        coarser = {"job": job, "quality": "draft"} if error.code == "out_of_memory" else {"job": job}
        label = "Retry as Draft" if error.code == "out_of_memory" else "Retry"
        found.append(Fix(label, "orrery.retry", "LOOP_BACK", coarser))
    return found


def of_remedy(text: str) -> list[Fix]:
    """The buttons for what an engine lacks, from the backend's own words."""
    found = []
    if match := _PULL.search(text):
        found.append(Fix("Pull Weights", "orrery.pull_weights", "IMPORT", {"names": match[1].strip()}))
    if _TORCH.search(text):
        found.append(Fix("Install Torch", "orrery.install_backend", "IMPORT", {"with_torch": True}))
    if "token" in text.lower():
        found.append(TOKEN)
    if (match := _PAGE.search(text)) and "git+" not in text:
        found.append(Fix("Open Page", "wm.url_open", "URL", {"url": match[0]}))
    return found


def reachable(found: list[Fix], online: bool) -> list[Fix]:
    """These buttons; before one that needs the network, while Blender is offline, the one that allows it."""
    offline = not online and ONLINE not in found and any(fix.operator in NEED_NETWORK for fix in found)
    return [ONLINE, *found] if offline else found
