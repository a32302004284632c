"""What went wrong in a store, in our errors: one place reads obstore's exceptions.

obstore's own texts hold request URLs and the service's answer, which may quote an access key or the
string to sign. None of it is passed on: only status, service code and errno are read from them.
"""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from genblaze_dagster.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    PreconditionError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9_]{1,64})</Code>")
_ERRNO = re.compile(r"(?:os error |\bcode: )(\d{1,3})\b")
# Empty, `.` and `..` segments, and control characters.
_UNUSABLE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f]")
_CAP = re.compile(r"(?i)cap exceeded")

_CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_FULL_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull", "StorageFull"})
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class Failure:
    """The facts of one failed operation.

    `kind` is obstore's exception class, `status` the HTTP status, `code` the service's code and
    `os_error` the errno, each None when there was none.
    """

    kind: str
    status: int | None
    code: str | None
    os_error: int | None
    over_cap: bool
    redirected: bool
    no_answer: bool

    @classmethod
    def of(cls, exc: BaseException) -> "Failure":
        """Read the facts from an exception of obstore."""
        text = str(exc)
        status, code, number = (p.search(text) for p in (_STATUS, _CODE, _ERRNO))
        # Connection failures carry the socket's errno, which says nothing about the store.
        local = "LocalFileSystem" in text or (isinstance(exc, OSError) and status is None)
        return cls(
            kind=type(exc).__name__,
            status=int(status[1]) if status else None,
            code=code[1] if code else None,
            os_error=int(number[1]) if number and local else None,
            over_cap=_CAP.search(text) is not None,
            redirected="redirect without LOCATION" in text,
            no_answer="HTTP error: " in text,
        )

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.no_answer or self.status in (408, 429, 500, 502, 503, 504)

    @property
    def is_taken(self) -> bool:
        """Whether a create-only write found the key taken."""
        return self.kind == "AlreadyExistsError" and not self.is_write_conflict

    @property
    def is_write_conflict(self) -> bool:
        """Whether another conditional write to the key was under way: neither won nor lost yet."""
        return self.code in ("ConditionalRequestConflict", "OperationAborted")


def storage_error(failure: Failure, *, action: str, key: str | None, store: str) -> StorageError:
    """Return the typed error for a failed operation.

    Args:
        failure: the facts.
        action: what was tried, as in "write".
        key: the object, None when the whole store was concerned.
        store: how messages name the store; no credentials.
    """
    thing = f"{store}: cannot {action}" + (f" {key}" if key is not None else "")
    for matches, make in _RULES:
        if matches(failure):
            return make(failure, thing, key)
    detail = failure.code or (f"status {failure.status}" if failure.status else failure.kind)
    return StorageError(f"{thing}: {detail}; run the storage check for a diagnosis", key=key)


def _missing_bucket(_: Failure, thing: str, key: str | None) -> StorageError:
    return NotFoundError(
        f"{thing}: the bucket does not exist; create it or correct the store URL", key=key
    )


def _wrong_region(_: Failure, thing: str, key: str | None) -> StorageError:
    return StorageError(
        f"{thing}: the bucket is in another region; set region (AWS_REGION, B2_REGION) to it",
        key=key,
    )


def _bad_credentials(failure: Failure, thing: str, key: str | None) -> StorageError:
    return AccessDeniedError(
        f"{thing}: the service refuses the credentials ({failure.code or failure.status}); "
        "check key, secret, session token, region and the clock",
        key=key,
    )


def _denied(failure: Failure, thing: str, key: str | None) -> StorageError:
    if failure.os_error is not None:
        return AccessDeniedError(
            f"{thing}: {os.strerror(failure.os_error)}; "
            "let this user write there or choose another directory",
            key=key,
        )
    return AccessDeniedError(
        f"{thing}: access denied; the key may be read-only, limited to another bucket or prefix, "
        "or wrong: give it read, write, delete and list on this one",
        key=key,
    )


def _full(failure: Failure, thing: str, key: str | None) -> StorageError:
    reason = os.strerror(failure.os_error) if failure.os_error else "storage limit reached"
    return StorageFullError(
        f"{thing}: {reason}; free space or raise the limit, nothing half-written remains", key=key
    )


def _not_a_directory(_: Failure, thing: str, key: str | None) -> StorageError:
    return StorageError(
        f"{thing}: part of the path is a file, not a directory; name a directory in the store URL",
        key=key,
    )


def _name_too_long(_: Failure, thing: str, key: str | None) -> StorageError:
    return StorageError(f"{thing}: the name is too long for the file system; shorten it", key=key)


def _missing(_: Failure, thing: str, key: str | None) -> StorageError:
    return NotFoundError(f"{thing}: there is no such object", key=key)


def _exists(_: Failure, thing: str, key: str | None) -> StorageError:
    return AlreadyExistsError(f"{thing}: it exists already", key=key)


def _precondition(_: Failure, thing: str, key: str | None) -> StorageError:
    return PreconditionError(f"{thing}: it was changed meanwhile; read it again", key=key)


def _unavailable(failure: Failure, thing: str, key: str | None) -> StorageError:
    reason = failure.code or (f"status {failure.status}" if failure.status else "no answer")
    return StorageUnavailableError(
        f"{thing}: {reason} after retries; check the endpoint and the network, then try again",
        key=key,
    )


Rule = tuple[Callable[[Failure], bool], Callable[[Failure, str, str | None], StorageError]]

_RULES: tuple[Rule, ...] = (
    (lambda f: f.code == "NoSuchBucket", _missing_bucket),
    (lambda f: f.redirected or f.code == "PermanentRedirect", _wrong_region),
    (lambda f: f.over_cap or f.code in _FULL_CODES or f.status == 507, _full),
    (lambda f: f.os_error in _FULL_ERRNOS, _full),
    (lambda f: f.code in _CREDENTIAL_CODES or f.status == 401, _bad_credentials),
    (lambda f: f.kind == "UnauthenticatedError", _bad_credentials),
    (lambda f: f.kind == "PermissionDeniedError" or f.status == 403, _denied),
    (lambda f: f.os_error in _DENIED_ERRNOS, _denied),
    (lambda f: f.os_error == errno.ENOTDIR, _not_a_directory),
    (lambda f: f.os_error == errno.ENAMETOOLONG, _name_too_long),
    (lambda f: f.kind == "FileNotFoundError" or f.status == 404, _missing),
    (lambda f: f.os_error == errno.ENOENT, _missing),
    (lambda f: f.kind == "AlreadyExistsError", _exists),
    (lambda f: f.kind == "PreconditionError" or f.status == 412, _precondition),
    (lambda f: f.is_transient, _unavailable),
)


def invalid_key(key: str) -> StorageError | None:
    """Return the error for a key no store can hold, None when it is fine."""
    if _UNUSABLE.search(key):
        return StorageError(
            f"object key {key!r} has an empty or relative segment or a control character; "
            "correct the tenant, asset or partition name it was built from",
            key=key,
        )
    return None
