"""Are the outputs a manifest names in the store, with the bytes it says?"""

import asyncio
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import NotFoundError, StorageError
from genblaze_dagster.trust.hashing import hash_object
from genblaze_dagster.trust.outputs import hashed_outputs, total_bytes
from genblaze_dagster.trust.progress import Advance, Progress
from genblaze_dagster.trust.report import Check, CheckName, Status

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_CONCURRENCY = 8


class _Outcome(StrEnum):
    MATCHES = auto()
    DIFFERS = auto()
    MISSING = auto()
    UNREADABLE = auto()
    ELSEWHERE = auto()


async def check_stored_outputs(
    manifest: Manifest, place: "MediaStore | None", *, asked: bool, progress: Progress
) -> Check:
    """Hash the outputs of a manifest, as far as they lie in a store.

    Args:
        manifest: whose outputs.
        place: the store, None when there is none to look into.
        asked: the user named the store, so that an output elsewhere leaves a question open.
        progress: shows the bytes read.

    Raises:
        StorageUnavailableError: the store cannot be reached.
    """
    outputs = hashed_outputs(manifest)
    if place is None or not outputs:
        detail = (
            "nothing to compare" if not outputs else "not looked at; name the store they are in"
        )
        return Check(CheckName.BYTES_MATCH, Status.SKIP, detail)
    slots = asyncio.Semaphore(_CONCURRENCY)
    with progress("outputs", total=total_bytes(outputs), in_bytes=True) as advance:

        async def one(asset: Asset) -> _Outcome:
            async with slots:
                return await _check_output(place, asset, advance)

        outcomes = await asyncio.gather(*(one(asset) for asset in outputs))
    return _summary(outcomes, place.url, asked=asked)


async def _check_output(store: "MediaStore", asset: Asset, advance: Advance) -> _Outcome:
    key, missing = _key_of(store, asset)
    try:
        actual = await hash_object(store, key, advance=advance)
    except NotFoundError:
        return missing
    except StorageError as exc:
        if exc.transient:
            raise
        return _Outcome.UNREADABLE
    return _Outcome.MATCHES if actual == asset.sha256 else _Outcome.DIFFERS


def _key_of(store: "MediaStore", asset: Asset) -> tuple[str, _Outcome]:
    """Return where an output should be, and what it means when it is not there."""
    from genblaze_dagster.storage.keys import Placement, url_extension

    try:
        key = store.key_from_url(asset.url)
        extension = url_extension(asset.url, asset.media_type)
    except ValueError:
        # Not a URL at all.
        key, extension = None, ""
    if key is not None:
        return key, _Outcome.MISSING
    # A copied or renamed store: the content address still leads to the bytes.
    placement = Placement(run_id=None, asset_id=asset.asset_id)
    sha256 = asset.sha256 or ""
    key = store.layout.asset_key(placement, sha256=sha256, extension=extension)
    return key, _Outcome.ELSEWHERE


def _summary(outcomes: list[_Outcome], place: str, *, asked: bool) -> Check:
    counts = {outcome: outcomes.count(outcome) for outcome in _Outcome}
    looked_at = len(outcomes) - counts[_Outcome.ELSEWHERE]
    if counts[_Outcome.DIFFERS] or counts[_Outcome.MISSING]:
        status = Status.FAIL
        detail = f"{counts[_Outcome.DIFFERS]} differ and {counts[_Outcome.MISSING]} are missing"
    elif counts[_Outcome.UNREADABLE]:
        status = Status.UNKNOWN
        detail = f"{counts[_Outcome.UNREADABLE]} cannot be read"
    elif looked_at == len(outcomes):
        status = Status.PASS
        detail = "every output hashes to its sha256"
    else:
        status = Status.UNKNOWN if asked or looked_at else Status.SKIP
        detail = f"{counts[_Outcome.ELSEWHERE]} are kept elsewhere and were not looked at"
    return Check(
        CheckName.BYTES_MATCH, status, f"{detail} ({len(outcomes)} output(s), store {place})"
    )
