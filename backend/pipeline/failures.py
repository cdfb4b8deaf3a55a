"""Whatever a job raises, as one of our errors that may be shown to a client: no path, no secret."""

from pathlib import Path

from backend.pipeline.artifacts import ArtifactStore, translate_os_error
from shared_protocol.errors import InternalError, OrreryError, OutOfMemory


def as_orrery_error(error: BaseException) -> OrreryError:
    """The error to report. Unforeseen ones become `internal_error`; the worker's log has their traceback."""
    if isinstance(error, MemoryError):
        return OutOfMemory("this machine's memory is used up", remedy="Try a lower quality.")
    if isinstance(error, OSError):
        error = translate_os_error(error, Path(error.filename or "the store"))  # type: ignore[assignment]
    if isinstance(error, OrreryError):
        return without_paths(error)
    return InternalError(
        f"something unforeseen happened ({type(error).__name__})",
        remedy="The backend's worker.log has the details; please report them.",
    )


def without_paths(error: OrreryError) -> OrreryError:
    """The same error; folders of this machine are not the client's business."""
    roots = {str(ArtifactStore().root): "the artifact store", str(Path.home()): "~"}

    def clean(text: str) -> str:
        for root, name in roots.items():
            text = text.replace(root, name)
        return text

    return type(error)(
        clean(error.found),
        clean(error.expected),
        clean(error.remedy),
        **{key: clean(value) if isinstance(value, str) else value for key, value in error.details.items()},
    )
