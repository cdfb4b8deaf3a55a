"""Where the backend is, as the user says: the usual place, a folder, or a connection file; no bpy."""

from dataclasses import dataclass
from pathlib import Path

from shared_protocol.endpoint import Endpoint, read_endpoint
from shared_protocol.errors import NotReachable


@dataclass(frozen=True)
class Place:
    """Where the backend is, and where results go.

    python           preference for starting one, may be empty
    connection_file  of a backend that runs elsewhere, or the state folder of one here; empty: the usual place
    online           whether Blender may reach beyond this machine
    folder           for results and logs
    backend          folder of a backend that the add-on installed, empty for none
    patience         seconds without an answer, after which nobody is there
    environment      names and values that a backend started here gets beside Blender's own
    """

    python: str
    auto_start: bool
    connection_file: str
    folder: Path
    online: bool = False
    backend: str = ""
    patience: float = 6.0
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def state(self) -> Path | None:
        """Folder of the backend's state, None for the usual one."""
        return self._chosen if self._chosen is not None and not self._is_file else None

    @property
    def startable(self) -> bool:
        """Whether a backend may be started where none runs: one that a file names runs by itself."""
        return self.auto_start and not self._is_file

    def endpoint(self) -> Endpoint:
        """Address and keys. NotReachable when no backend runs there, or there is no such file."""
        if self._is_file and not self._chosen.exists():
            raise NotReachable(
                f"there is no connection file {self._chosen}",
                remedy="Choose the file that keygen made; or empty the field, to use this machine.",
            )
        return read_endpoint(self._chosen)

    @property
    def _chosen(self) -> Path | None:
        return Path(self.connection_file).expanduser() if self.connection_file else None

    @property
    def _is_file(self) -> bool:
        return self._chosen is not None and self._chosen.suffix == ".json"
