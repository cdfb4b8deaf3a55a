"""stub"""

import queue
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    python: str
    auto_start: bool
    connection_file: str
    folder: Path


class Client:
    def __init__(self):
        self.updates = queue.SimpleQueue()

    def connect(self, place):
        pass

    def submit(self, place, job, name, read, settings, seed):
        pass

    def cancel(self, job):
        pass

    def next_update(self):
        try:
            return self.updates.get_nowait()
        except queue.Empty:
            return None

    def close(self):
        pass
