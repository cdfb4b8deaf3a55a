"""Find a Python that has the backend, and start it; no bpy, called on the client's thread."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from shared_protocol.errors import NotReachable

REMEDY = "Install the backend here, or name a Python that has it under Edit > Preferences > Add-ons > Orrery."
CHECK_SECONDS = 20.0
IDLE_SECONDS = 60
"""A backend that this Blender started ends so long after its last job and its last client."""
LOG_TAIL = 600
"""Characters of the backend's last output that go into an error."""


@dataclass
class BackendProcess:
    """A backend that this Blender started. Left alone, it finishes its jobs and ends by itself."""

    process: subprocess.Popen
    log: Path
    command: list[str] = field(default_factory=list)

    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process.poll() is None

    def failure(self) -> NotReachable:
        """Why it ended, with the last lines it wrote."""
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
        last = tail.splitlines()[-1] if tail else "it wrote nothing"
        return NotReachable(
            f"the backend ended with code {self.process.poll()}: {last}",
            remedy=f"The log is {self.log}.",
            log=str(self.log),
        )

    def leave(self) -> None:
        """Let it finish its jobs by itself. Python would warn of a child that nobody waits for."""
        self.process.returncode = self.process.poll() or 0

    def stop(self, seconds: float = 5.0) -> None:
        """Ask it to end; after `seconds` end it."""
        if not self.running():
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_backend(
    preference: str,
    log_folder: Path,
    state: Path | None = None,
    installed: str = "",
    environment: dict[str, str] | None = None,
) -> BackendProcess:
    """Start `python -m backend serve`; it ends a while after its last job and its last client.

    It is not tied to this process: a job goes on when Blender is closed or crashes, and is found again.

    state        folder for its connection file and jobs, where it is not the usual one
    installed    folder of a backend that the add-on installed
    environment  names and values it gets beside ours

    Raises NotReachable, naming every Python tried, when none has the backend.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    python = find_python(preference, log_folder, installed)
    command = [*python, "-m", "backend", "serve", "--idle-exit", str(IDLE_SECONDS)]
    log = log_folder / "backend.log"
    extra = (environment or {}) | ({"ORRERY_STATE": str(state)} if state else {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log_folder,
            env={**os.environ, **extra},
            start_new_session=os.name != "nt",  # Ctrl-C in Blender's terminal is not meant for it
            **hidden_window(),
        )
    return BackendProcess(process, log, command)


def find_python(preference: str, folder: Path, installed: str = "") -> list[str]:
    """The command of the first Python that has the backend.

    The preference; the backend that the add-on installed; ORRERY_PYTHON; then what is on PATH. A
    preference that does not work is an error, not passed over: the user chose it.

    folder  where it is run; Python also imports from its working folder, and Blender's may be anything
    """
    tried = []
    chosen = preference.strip()
    usual = [os.environ.get("ORRERY_PYTHON", ""), "python3", "python"]
    own = venv_python(Path(installed)) if installed else None
    candidates = [chosen] if chosen else [*([str(own)] if own and own.exists() else []), *usual]
    for candidate in candidates:
        command = _split(candidate)
        if not command:
            continue
        reason = _why_not(command, folder)
        if not reason:
            return command
        tried.append(f"{candidate} ({reason})")
    raise NotReachable(
        f"no Python with the backend was found; tried {', '.join(tried) or 'none'}", remedy=REMEDY
    )


def venv_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _split(text: str) -> list[str]:
    """A path (which may hold spaces) or a command line -> its words, the program found on PATH."""
    if not text:
        return []
    words = [text] if Path(text).expanduser().is_file() else shlex.split(text, posix=os.name != "nt")
    program = shutil.which(str(Path(words[0]).expanduser()))
    return [program or words[0], *words[1:]]


def _why_not(command: list[str], folder: Path) -> str:
    """Empty when this Python has the backend."""
    check = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('backend.daemon') else 3)"
    try:
        outcome = subprocess.run(
            [*command, "-c", check],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            timeout=CHECK_SECONDS,
            check=False,
            **hidden_window(),
        )
    except subprocess.TimeoutExpired:
        return "does not answer"
    except OSError as error:
        return (error.strerror or "cannot be started").lower()
    return "" if outcome.returncode == 0 else "has no backend installed"


def hidden_window() -> dict[str, int]:
    """On Windows a child of a windowed program would open a console."""
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
