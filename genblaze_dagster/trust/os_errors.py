"""What went wrong with a local file, in our errors."""

from pathlib import Path

from genblaze_dagster.errors import AccessDeniedError, NotFoundError, StorageError


def storage_error(error: OSError, path: Path | None = None) -> StorageError:
    """Return an error about a local file as one of ours; `path` when the system did not name it."""
    kind = StorageError
    if isinstance(error, PermissionError):
        kind = AccessDeniedError
    elif isinstance(error, FileNotFoundError):
        kind = NotFoundError
    name = path or error.filename
    return kind(f"{name}: {error.strerror}" if name is not None else str(error))
