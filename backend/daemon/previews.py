"""The newest small picture of each kind of each running job: in memory, never stored, gone with the job."""

from dataclasses import dataclass

from shared_protocol.messages import PREVIEW_BYTES

MOST_NAMES = 8
"""Kinds of pictures of one job."""


@dataclass(frozen=True)
class StoredPreview:
    """number grows from picture to picture of a job."""

    number: int
    media_type: str
    data: bytes


class Previews:
    """By job and name; a newer one takes the place of the older."""

    def __init__(self) -> None:
        self._by_job: dict[str, dict[str, StoredPreview]] = {}
        self._last = 0

    def put(self, job: str, name: str, media_type: str, data: bytes) -> None:
        """Keep a picture; one that is too large, or of one kind too many, is dropped."""
        of_job = self._by_job.setdefault(job, {})
        if len(data) <= PREVIEW_BYTES and (name in of_job or len(of_job) < MOST_NAMES):
            self._last += 1
            of_job[name] = StoredPreview(self._last, media_type, data)

    def newest(self, job: str, after: int) -> list[tuple[str, int]]:
        """(name, number) of the pictures newer than number `after`, in their order."""
        of_job = self._by_job.get(job, {})
        return sorted(
            ((name, one.number) for name, one in of_job.items() if one.number > after),
            key=lambda pair: pair[1],
        )

    def get(self, job: str, name: str) -> StoredPreview | None:
        """The newest picture of this name."""
        return self._by_job.get(job, {}).get(name)

    def drop(self, job: str) -> None:
        """The job has ended."""
        self._by_job.pop(job, None)
