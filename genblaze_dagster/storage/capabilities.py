"""What a store can do, found out by doing it: services differ, and some say yes and ignore it."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from genblaze_dagster.errors import AccessDeniedError, NotFoundError, StorageError
from genblaze_dagster.storage.client import ObjectClient
from genblaze_dagster.storage.location import Scheme

logger = logging.getLogger(__name__)

PROBE_FOLDER = ".probe"

_CHECK_CONNECT_SECONDS = 10.0
_CHECK_RETRIES = 1

_known: dict[tuple[str, str], "StoreCapabilities"] = {}


class CreateOnly(StrEnum):
    """How a store treats a second create-only write to one key."""

    ENFORCED = "enforced"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """How the store behaves, not what it says.

    `hides_missing`: looking up a missing object is answered with 403 instead of 404, as for keys
    that may not list.
    """

    create_only_behaviour: CreateOnly
    hides_missing: bool

    @property
    def create_only(self) -> bool:
        """Whether the store itself keeps a create-only write from replacing an object."""
        return self.create_only_behaviour is CreateOnly.ENFORCED


def known_capabilities(client: ObjectClient) -> StoreCapabilities | None:
    """Return what an earlier probe of the same bucket in this process found."""
    return _known.get(_identity(client))


async def probe_capabilities(client: ObjectClient) -> StoreCapabilities:
    """Write, write again, look up and delete one small object, and keep what was learnt.

    Raises:
        StorageError: the store cannot be written.
    """
    key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    try:
        behaviour = await _create_only(client, key)
        found = StoreCapabilities(behaviour, await _hides_missing(client, key))
    except StorageError as exc:
        if not exc.transient:
            await _remove(client, key)
        raise
    await _remove(client, key)
    _known[_identity(client)] = found
    logger.debug("%s: %s", client.name, found)
    return found


@asynccontextmanager
async def missing_named(
    probe: Callable[[], Awaitable[StoreCapabilities]], client: ObjectClient, key: str
) -> AsyncGenerator[None]:
    """Turn a refusal to read an object into its absence, where the store means that by it.

    Args:
        probe: finds out how the store behaves; called after a refusal only.
        client: the store.
        key: what is read inside the block.

    Raises:
        NotFoundError: there is no such object.
        AccessDeniedError: reading is not allowed, or nobody can find out what is meant.
    """
    try:
        yield
    except AccessDeniedError as denied:
        try:
            hides_missing = (await probe()).hides_missing
        except AccessDeniedError:
            hides_missing = False
        if not hides_missing:
            raise denied from None
        raise NotFoundError(
            f"{client.name}: cannot read {key}: there is no such object, or none that this key may "
            "read",
            key=key,
        ) from None


async def check_access(client: ObjectClient, *, write: bool) -> None:
    """Find out quickly whether the store can be used; the error says what to change.

    Raises:
        NotFoundError: the bucket or directory does not exist.
        AccessDeniedError: wrong credentials, or `write` and the store is read-only.
        StorageFullError: `write` and nothing more can be stored.
        StorageUnavailableError: the endpoint cannot be reached.
    """
    directory = client.location.root if client.location.scheme is Scheme.FILE else None
    if directory is not None and not write and not await asyncio.to_thread(Path(directory).exists):
        raise NotFoundError(
            f"{client.name}: the directory does not exist; create it or correct the store URL"
        )
    quick = client.with_options(
        connect_timeout=min(client.options.connect_timeout, _CHECK_CONNECT_SECONDS),
        max_retries=min(client.options.max_retries, _CHECK_RETRIES),
    )
    readable: AccessDeniedError | None = None
    try:
        async for _ in quick.list(PROBE_FOLDER):
            break
    except AccessDeniedError as exc:
        readable = exc
    if write:
        await _check_write(quick, can_list=readable is None)
    elif readable is not None:
        raise readable


async def _check_write(client: ObjectClient, *, can_list: bool) -> None:
    key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    try:
        await client.put(key, b"genblaze", attributes={}, create=False)
    except AccessDeniedError:
        if can_list and client.access is not None:
            raise AccessDeniedError(
                f"{client.name}: it can be read but not written; "
                "use a key with write permission on it"
            ) from None
        raise
    await _remove(client, key)


async def _create_only(client: ObjectClient, key: str) -> CreateOnly:
    # Without retries first: a service that lacks the feature says 501, which looks transient.
    failure = await client.with_options(max_retries=0).try_put(
        key, b"1", attributes={}, create=True
    )
    if failure is not None and failure.is_transient:
        failure = await client.try_put(key, b"1", attributes={}, create=True)
        if failure is not None and failure.is_transient:
            raise client.error(failure, "write", key)
    if failure is not None and not failure.is_taken:
        await client.put(key, b"1", attributes={}, create=False)
        return CreateOnly.REFUSED
    second = await client.try_put(key, b"2", attributes={}, create=True)
    if second is not None and not second.is_taken:
        raise client.error(second, "write", key)
    kept = await client.get(key) == b"1"
    return CreateOnly.ENFORCED if second is not None and kept else CreateOnly.IGNORED


async def _hides_missing(client: ObjectClient, key: str) -> bool:
    """Whether 403 means missing: for a key that is missing, and not for one that is there."""
    try:
        await client.head(f"{key}-missing")
    except AccessDeniedError:
        with suppress(AccessDeniedError):
            return await client.head(key) is not None
    return False


async def _remove(client: ObjectClient, key: str) -> None:
    try:
        await client.delete(key)
    except StorageError as exc:
        logger.warning("%s; a probe object may remain", exc)


def _identity(client: ObjectClient) -> tuple[str, str]:
    endpoint = client.access.display_endpoint if client.access else client.location.scheme.value
    return endpoint, client.location.root
