"""Errors of object stores and sinks."""

from collections.abc import Sequence

from genblaze_dagster.errors.base import GenblazeError


class StorageError(GenblazeError):
    """An object store operation failed; `key` names the object when there is one."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class NotFoundError(StorageError):
    """No such object or bucket."""


class AlreadyExistsError(StorageError):
    """Create on a key that exists."""


class ConflictError(StorageError):
    """Other content is stored under the key; nothing was overwritten."""


class PreconditionError(StorageError):
    """A conditional replace lost the race."""


class AccessDeniedError(StorageError):
    """The credentials are wrong, or do not allow this."""


class StorageFullError(StorageError):
    """No space or quota is left; nothing half-written remains."""


class StorageUnavailableError(StorageError):
    """The store cannot be reached, or keeps answering 5xx."""

    transient = True


class SinkError(StorageError):
    """A run could not be written completely; `stored` names the objects that are safe.

    Attributes:
        failed_asset_ids: asset ids that are not stored.
    """

    def __init__(self, message: str, *, failed_asset_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.failed_asset_ids = tuple(failed_asset_ids)
