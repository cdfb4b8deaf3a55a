"""Files of a model hub (Hugging Face's, or one that speaks its addresses): where they are, who may have them.

HF_ENDPOINT    address of the hub, https://huggingface.co unless set
HF_TOKEN       token for gated repositories; else that of `huggingface-cli login`
HF_HUB_CACHE   other tools' cache, looked into first (HF_HOME/hub, ~/.cache/huggingface/hub)
"""

import os
import urllib.parse
from pathlib import Path

from backend.weights.store import Source
from shared_protocol.errors import InvalidInput

DEFAULT_ENDPOINT = "https://huggingface.co"


def address(source: Source) -> str:
    """Where a hub's file is fetched from."""
    path = urllib.parse.quote(source.path)
    return f"{_endpoint()}/{source.repo}/resolve/{urllib.parse.quote(source.revision, safe='')}/{path}"


def token() -> str:
    """The user's token for the hub; empty without one."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return os.environ[name].strip()
    path = os.environ.get("HF_TOKEN_PATH")
    try:
        return (Path(path) if path else _home() / "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cached(source: Source) -> Path | None:
    """The file in the cache that other tools of this user share, if it is there."""
    folder = os.environ.get("HF_HUB_CACHE")
    root = Path(folder) if folder else _home() / "hub"
    name = "models--" + source.repo.replace("/", "--")
    path = root / name / "snapshots" / source.revision / source.path
    return path if path.is_file() else None


def refusal(source: Source, code: int) -> str:
    """What to do when the hub answers 401 or 403."""
    page = f"{_endpoint()}/{source.repo}"
    if code == 401 and not token():
        return (
            f"the repository is gated (HTTP 401): accept its licence at {page}, make a token at "
            f"{_endpoint()}/settings/tokens, and set HF_TOKEN to it or run huggingface-cli login"
        )
    if code == 401:
        return f"the hub does not know the token (HTTP 401): make a new one at {_endpoint()}/settings/tokens"
    return (
        f"your token does not open this repository (HTTP 403): accept its licence at {page} with its account"
    )


def _endpoint() -> str:
    chosen = os.environ.get("HF_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
    if not chosen.startswith(("https://", "http://")):
        raise InvalidInput(f"HF_ENDPOINT is '{chosen}'", f"an address as {DEFAULT_ENDPOINT}, or unset")
    return chosen.rstrip("/")


def _home() -> Path:
    chosen = os.environ.get("HF_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "huggingface"
