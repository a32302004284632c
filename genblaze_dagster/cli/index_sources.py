"""The manifests of what a command line argument names, however many there are."""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES, parse_manifest
from genblaze_dagster.errors import (
    EmbeddingError,
    GenblazeError,
    PointerSidecarError,
    StorageError,
)
from genblaze_dagster.trust.claims import Claims, RunSearch, find_manifest
from genblaze_dagster.trust.files import Entry, Unreadable, local_files, stored_files
from genblaze_dagster.trust.roles import Role, holds_manifest, role_of
from genblaze_dagster.trust.subject import Subject, opened
from genblaze_dagster.trust.targets import LocalFile, StoredObject, Target, WholeStore

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_CONCURRENCY: Final = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest, not verified, or why there is none to be had where one was expected."""

    where: str
    outcome: Manifest | GenblazeError


async def manifests_of(target: Target, *, endpoint_url: str | None) -> AsyncGenerator[Found, None]:
    """Yield the manifests of a file, an object, a folder, a store or a prefix.

    Of a remote store the manifests in it are listed. Elsewhere every file is looked at: media with
    what is embedded in it and its sidecar, and JSON; those without a manifest are passed over.

    Raises:
        EmbeddingError: a single file or object has no manifest.
        ManifestError: the manifest of a single file or object cannot be read.
        StorageError: the target, or the store it lies in, cannot be read.
    """
    if not isinstance(target, WholeStore):
        for found in await _in_one(target):
            yield found
        return
    in_entry = partial(_in_entry, RunSearch())
    if target.path is not None:
        sources = _several(local_files(target.path), in_entry)
    elif documents := await _stored_documents(target.store):
        sources = _several(_each(documents), _in_document)
    else:
        entries = stored_files(target.store, endpoint_url=endpoint_url)
        sources = _several(entries, in_entry)
    async with aclosing(sources):
        async for found in sources:
            yield found


async def _in_one(target: LocalFile | StoredObject) -> list[Found]:
    search = RunSearch()
    async with opened(target) as subject:
        claims = await search.claims(subject)
        if not claims.is_silent:
            return _claimed(subject, claims)
        found = await find_manifest(subject, search)
        return [Found(target.url, found.manifest)]


async def _in_entry(search: RunSearch, entry: Entry) -> list[Found]:
    if isinstance(entry, Unreadable):
        return [Found(str(entry.path), StorageError(f"{entry.path}: {entry.reason}"))]
    try:
        role = await role_of(entry)
        if role in (Role.SIDECAR, Role.OTHER):
            return []
        async with opened(entry) as subject:
            if role is Role.DOCUMENT and not await asyncio.to_thread(holds_manifest, subject.path):
                return []
            claims = await search.claims(subject)
    except GenblazeError as exc:
        if exc.transient:
            raise
        return [Found(entry.url, exc)]
    if role is Role.DOCUMENT and isinstance(claims.problem, PointerSidecarError):
        # Entries that lead to a manifest elsewhere, not media without theirs.
        return []
    return [] if claims.is_silent else _claimed(subject, claims)


def _claimed(subject: Subject, claims: Claims) -> list[Found]:
    """Return what is in and beside a file: the whole manifest may be beside a redacted one."""
    manifests: list[Manifest] = []
    # A broken sidecar is also why there is no manifest at all, and is told once.
    errors: dict[str, GenblazeError] = {}
    for outcome in (claims.standalone, claims.embedded, claims.sidecar, claims.problem):
        if isinstance(outcome, Manifest):
            manifests.append(outcome)
        elif outcome is not None:
            outcome.args = (subject.named(str(outcome)),)
            errors[str(outcome)] = outcome
    return [Found(subject.origin.url, outcome) for outcome in (*manifests, *errors.values())]


@dataclass(frozen=True, slots=True)
class _Document:
    """The key of a manifest, or why it cannot be read."""

    store: "MediaStore"
    key: str
    problem: str | None = None


async def _stored_documents(store: "MediaStore") -> list[_Document]:
    """Return the manifests a store lists, under either of its key strategies."""
    from genblaze_dagster.index.rebuild import list_manifests
    from genblaze_dagster.storage.keys import KeyStrategy

    found: list[_Document] = []
    for strategy in KeyStrategy:
        keys, skipped = await list_manifests(store.below("", key_strategy=strategy))
        found += [_Document(store, key) for key in sorted(keys)]
        found += [_Document(store, bad.key, bad.reason) for bad in skipped]
    return found


async def _in_document(document: _Document) -> list[Found]:
    where = f"{document.store.url}/{document.key}"
    if document.problem is not None:
        return [Found(where, EmbeddingError(f"{where}: {document.problem}"))]
    try:
        data = await document.store.get(document.key, max_bytes=MAX_MANIFEST_BYTES)
        return [Found(where, await asyncio.to_thread(parse_manifest, data))]
    except GenblazeError as exc:
        if exc.transient:
            raise
        return [Found(where, exc)]


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def _several(
    items: AsyncIterable[T], look: Callable[[T], Awaitable[list[Found]]]
) -> AsyncGenerator[Found, None]:
    """Look at a few items at the same time and yield what was found in the order of the items."""
    looking: deque[asyncio.Future[list[Found]]] = deque()
    try:
        async for item in items:
            looking.append(asyncio.ensure_future(look(item)))
            if len(looking) == _CONCURRENCY:
                for found in await looking.popleft():
                    yield found
        while looking:
            for found in await looking.popleft():
                yield found
    finally:
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
