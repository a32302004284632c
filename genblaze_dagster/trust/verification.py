"""Is this what its manifest says? The one entrance to verification."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.trust.claims import RunSearch
from genblaze_dagster.trust.file import Question, check_file
from genblaze_dagster.trust.folder import check_folder
from genblaze_dagster.trust.progress import Progress, silent
from genblaze_dagster.trust.report import VerificationReport
from genblaze_dagster.trust.store import check_store, is_store
from genblaze_dagster.trust.subject import opened
from genblaze_dagster.trust.targets import Target, WholeStore, locate, reachable_store

if TYPE_CHECKING:
    from genblaze_dagster.storage.fetch import AssetFetcher
    from genblaze_dagster.storage.store import MediaStore


def verify(
    target: str | Path,
    *,
    store: "MediaStore | str | Path | None" = None,
    hash_only: bool = False,
    fetch: bool = False,
    allowed_roots: Sequence[Path | str] = (),
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> VerificationReport:
    """Verify a file, a stored object, a whole store, or every file below a directory or prefix.

    Nothing is contacted but the target, its store and `store`, unless `fetch` asks for it. Every
    problem inside a store or folder is a finding of the report; what keeps a single file from
    being compared at all is an error.

    Args:
        target: a path, or a file://, s3:// or b2:// URL.
        store: where to look up who made a file, or where the outputs of a manifest are.
        hash_only: look at the manifest's hash and at no bytes.
        fetch: download every output from its URL, too, and compare it.
        allowed_roots: folders besides the temporary one from which `fetch` may read file:// URLs.
        endpoint_url: S3 endpoint of s3:// and b2:// URLs.
        progress: shows work that takes long.

    Raises:
        EmbeddingError: there is no manifest, or (PointerSidecarError) only a pointer to one.
        ManifestError: there is a manifest, and it cannot be read or hashed.
        StorageError: the target or a store is missing or cannot be read.
        IndexQueryError: the index of a store cannot be read.
        ConfigError: options contradict each other, or a setting is missing or wrong.
    """
    return run_sync(
        averify(
            target,
            store=store,
            hash_only=hash_only,
            fetch=fetch,
            allowed_roots=allowed_roots,
            endpoint_url=endpoint_url,
            progress=progress,
        )
    )


async def averify(
    target: str | Path,
    *,
    store: "MediaStore | str | Path | None" = None,
    hash_only: bool = False,
    fetch: bool = False,
    allowed_roots: Sequence[Path | str] = (),
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> VerificationReport:
    """Do what `verify` does, in async code."""
    question = await ask(
        store=store,
        hash_only=hash_only,
        fetch=fetch,
        allowed_roots=allowed_roots,
        endpoint_url=endpoint_url,
        progress=progress,
    )
    located = await locate(target, endpoint_url=endpoint_url)
    if (problem := await contradiction(located, question)) is not None:
        raise ConfigError(f"{target}: {problem}")
    return await answer(located, question, target=str(target))


async def ask(
    *,
    store: "MediaStore | str | Path | None" = None,
    hash_only: bool = False,
    fetch: bool = False,
    allowed_roots: Sequence[Path | str] = (),
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> Question:
    """Return the question that options make; they are those of `verify`.

    Raises:
        ConfigError: they contradict each other.
        StorageError: the store is missing or cannot be read.
    """
    if hash_only and fetch:
        raise ConfigError("hash_only looks at no bytes and fetch at all of them; choose one")
    if allowed_roots and not fetch:
        raise ConfigError("allowed_roots says what fetch may read; ask for fetch, too")
    if isinstance(store, str | Path):
        store = await reachable_store(store, endpoint_url=endpoint_url)
    fetcher = _fetcher(allowed_roots) if fetch else None
    return Question(hash_only, fetcher, store, endpoint_url, progress)


def _fetcher(allowed_roots: Sequence[Path | str]) -> "AssetFetcher":
    from genblaze_dagster.storage.fetch import AssetFetcher

    return AssetFetcher([Path(root).absolute() for root in allowed_roots])


async def contradiction(located: Target, question: Question) -> str | None:
    """Return what makes no sense to ask about a target, None when all does.

    Raises:
        StorageError: the target cannot be listed.
    """
    if not isinstance(located, WholeStore):
        return None
    if not (question.hash_only or question.fetcher) or not await is_store(located.store):
        return None
    return "a store is checked with the bytes it holds, with all of them and no others"


async def answer(located: Target, question: Question, *, target: str) -> VerificationReport:
    """Verify what a target names; `target` is what the report calls it.

    Raises:
        GenblazeError: as `verify`.
    """
    if not isinstance(located, WholeStore):
        async with opened(located, progress=question.progress) as subject:
            search = RunSearch(question.store)
            return await check_file(subject, question, search, target=target)
    if await is_store(located.store):
        return await check_store(located.store, target=target, progress=question.progress)
    return await check_folder(located, question, target=target)
