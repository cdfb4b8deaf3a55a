"""Installing the backend into a virtual environment of its own, and its weights; no bpy.

Nothing is installed into Blender's Python: it only makes the environment. What runs takes its time in a
thread; the panel reads the fields of `Installer`, which `pump` renews on the main thread.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared_protocol.errors import InternalError, InvalidInput, NotReachable, OrreryError

from .backend_process import hidden_window, venv_python
from .download import as_our_error
from .one_at_a_time import alone

MARKER = "orrery-backend.json"
"""In a folder that was made here, and may be emptied again."""

NO_TORCH, CPU_TORCH, CUDA_TORCH = "NONE", "CPU", "CUDA"
TORCH_INDEX = {
    CPU_TORCH: "https://download.pytorch.org/whl/cpu",
    CUDA_TORCH: "https://download.pytorch.org/whl/cu126",
}
"""Where the makers of torch keep its builds by device."""

LINES = 12
"""Of the log, shown in the panel."""


@dataclass(frozen=True)
class Task:
    """One command, or the function that finds it (called in the thread); `words` say what it does."""

    words: str
    command: tuple[str, ...] | Callable[[], tuple[str, ...]]


@dataclass(frozen=True)
class _News:
    words: str = ""
    fraction: float = -1.0
    line: str = ""
    error: OrreryError | None = None
    over: bool = False


@dataclass
class Installer:
    """At most one thing at a time. Read and called on the main thread only.

    words, fraction  what it does now, and how far it is (0..1)
    lines            the last lines of the log
    error            why it ended, None while all is well
    log              the whole log
    """

    running: bool = False
    words: str = ""
    fraction: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    error: OrreryError | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._process: subprocess.Popen | None = None
        self._cancelled = threading.Event()
        self._then: Callable[[], None] | None = None

    def install(self, folder: Path, wheel: Path, torch: str, log: Path, repair: bool = False) -> None:
        """Make the environment and install `wheel` with its packages; `repair` begins with an empty one."""
        self._start(lambda: self._install(folder, wheel, torch, repair), log, folder=folder)

    def remove(self, folder: Path, log: Path) -> None:
        """Delete the environment; InvalidInput (in `error`) for a folder that was not made here."""
        self._start(lambda: self._remove(folder), log, folder=folder)

    def run(self, task: Task, log: Path, environment: dict[str, str], then: Callable[[], None]) -> None:
        """Run one command with this environment beside ours; after it, if all went well, call `then`."""
        self._start(lambda: self._run(task, 0.0, environment), log, then)

    def cancel(self) -> None:
        """End what runs."""
        self._cancelled.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def pump(self) -> bool:
        """Take in the news; returns whether there was some."""
        changed = False
        while True:
            try:
                news = self._news.get_nowait()
            except queue.Empty:
                return changed
            changed = True
            self.words = news.words or self.words
            self.fraction = news.fraction if news.fraction >= 0 else self.fraction
            if news.line:
                self.lines.append(news.line)
            self.error = news.error or self.error
            if news.over:
                self.running, then, self._then = False, self._then, None
                if then is not None and self.error is None:
                    then()

    # ---- in the thread

    def _start(
        self,
        work: Callable[[], None],
        log: Path,
        then: Callable[[], None] | None = None,
        folder: Path | None = None,
    ) -> None:
        if self.running:
            return
        self.running, self.error, self.words, self.fraction, self.log = True, None, "", 0.0, log
        self.lines.clear()
        self._cancelled.clear()
        self._then = then
        arguments = (work, [log] if folder is None else [log, folder])
        threading.Thread(target=self._guarded, args=arguments, name="orrery-install", daemon=True).start()

    def _guarded(self, work: Callable[[], None], places: list[Path]) -> None:
        """places: what no other Blender may write meanwhile, the log first."""
        try:
            with contextlib.ExitStack() as locks:
                for place in places:
                    locks.enter_context(alone(place))
                places[0].parent.mkdir(parents=True, exist_ok=True)
                places[0].write_bytes(b"")
                work()
        except OrreryError as error:
            self._news.put(_News(error=None if self._cancelled.is_set() else error, words=error.found))
        except OSError as error:
            self._news.put(_News(error=as_our_error(error, Path(error.filename or places[-1]))))
        except Exception as error:  # noqa: BLE001 - the thread's last line of defence, shown to the user
            self._news.put(_News(error=InternalError(f"the installation stumbled: {error!r}")))
        finally:
            words = "cancelled" if self._cancelled.is_set() else ""
            self._news.put(_News(words=words, over=True))

    def _install(self, folder: Path, wheel: Path, torch: str, repair: bool) -> None:
        if not wheel.is_file():
            raise InternalError(
                f"the backend's package {wheel.name} is not in the extension",
                remedy="Install the extension from its zip again.",
            )
        if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
            raise InvalidInput(
                f"the folder {folder} is not empty", "an empty folder, or a new one", "Choose another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text(json.dumps({"wheel": wheel.name, "torch": torch, "whole": False}))
        if repair or not venv_python(folder).exists():
            self._make_environment(folder)
        python = str(venv_python(folder))
        pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
        pip += ("--progress-bar", "off")
        tasks = []
        if torch != NO_TORCH:
            index = ("--index-url", TORCH_INDEX[torch])
            tasks.append(Task("fetching torch (large)", (*pip, "torch", *index)))
        extra = "[models]" if torch != NO_TORCH else ""
        tasks += [
            Task("fetching the backend's packages", (*pip, f"{wheel}{extra}")),
            # The packages are there; this brings an older copy of the same version up to this one.
            Task("installing the backend", (*pip, "--force-reinstall", "--no-deps", str(wheel))),
            Task("checking", (python, "-m", "backend", "--version")),
        ]
        for number, task in enumerate(tasks, start=1):
            self._run(task, number / (len(tasks) + 1))
        (folder / MARKER).write_text(json.dumps({"wheel": wheel.name, "torch": torch, "whole": True}))
        self._news.put(_News(words="the backend is installed", fraction=1.0))

    def _make_environment(self, folder: Path) -> None:
        """With Blender's own Python; where that cannot, with one on the path."""
        marker = (folder / MARKER).read_text()
        named = [sys.executable, *(shutil.which(name) for name in ("python3.13", "python3.12", "python3.11"))]
        candidates = [str(python) for python in named if python]
        for python in candidates:
            try:
                self._run(Task("making an environment", (python, "-m", "venv", "--clear", str(folder))), 0.0)
            except NotReachable:
                if python == candidates[-1] or self._cancelled.is_set():
                    raise
            else:
                (folder / MARKER).write_text(marker)
                return

    def _remove(self, folder: Path) -> None:
        if not (folder / MARKER).exists():
            raise InvalidInput(
                f"{folder} holds no backend that was installed here", remedy="Delete it by hand."
            )
        self._news.put(_News(words="removing the backend", fraction=0.5))
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise NotReachable(
                f"{error.filename} cannot be deleted ({error.strerror})", remedy="Stop the backend first."
            ) from error
        self._news.put(_News(words="the backend is removed", fraction=1.0))

    def _run(self, task: Task, fraction: float, environment: dict[str, str] | None = None) -> None:
        if self._cancelled.is_set():
            raise NotReachable("cancelled")
        self._news.put(_News(words=task.words, fraction=fraction))
        command = task.command() if callable(task.command) else task.command
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,  # Python imports from there too; Blender's own may be any folder
                env=clean_environment() | (environment or {}),
                **hidden_window(),
            )
        except OSError as error:
            raise NotReachable(f"{command[0]} cannot be started ({error.strerror})") from error
        last = ""
        with self._process as process, self.log.open("ab") as log:
            for raw in process.stdout:
                log.write(raw)
                log.flush()
                last = raw.decode("utf-8", "replace").strip() or last
                self._news.put(_News(line=last))
        if code := self._process.returncode:
            raise NotReachable(
                f"{task.words} ended with code {code}: {last}", remedy=f"The log is {self.log}.",
                log=str(self.log),
            )  # fmt: skip


def clean_environment() -> dict[str, str]:
    """Ours without what points other Pythons into Blender's."""
    hidden = ("PYTHONHOME", "PYTHONPATH", "PYTHONEXECUTABLE", "PIP_TARGET", "PIP_USER")
    return {**{k: v for k, v in os.environ.items() if k not in hidden}, "PYTHONNOUSERSITE": "1"}


def begun(folder: Path) -> bool:
    """Whether a backend, whole or not, was installed into this folder."""
    return (folder / MARKER).is_file()


def installed(folder: Path) -> bool:
    """Whether a whole backend that was installed here lies in this folder."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((folder / MARKER).read_text())["whole"] and venv_python(folder).exists()
    return False


def package_wheel() -> Path:
    """The backend's package that travels with the extension."""
    here = Path(__file__).parent / "backend_package"
    return next(iter(sorted(here.glob("*.whl"))), here / "orrery.whl")
