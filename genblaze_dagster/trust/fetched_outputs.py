"""Are the bytes behind the URL of every output the ones the manifest says?

URLs in a manifest may come from anybody: https goes through the SSRF guard, files are read below
allowed folders only, and no message holds a query, which is where credentials travel.
"""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import GenblazeError, UnsafeUrlError
from genblaze_dagster.net.redact import redact, strip_url
from genblaze_dagster.trust.hashing import hash_file, hash_stream
from genblaze_dagster.trust.outputs import hashed_outputs, total_bytes
from genblaze_dagster.trust.progress import Advance, Progress
from genblaze_dagster.trust.report import Check, CheckName, Finding, Status

if TYPE_CHECKING:
    from genblaze_dagster.storage.fetch import AssetFetcher

    LocalFiles = dict[str, Path | UnsafeUrlError]

_CONCURRENCY: Final = 4
_DIFFERS: Final = "bytes differ"
_REFUSED: Final = "not fetched, the address is refused"
_FAILED: Final = "not fetched"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The check, and what is wrong with which output."""

    check: Check
    findings: tuple[Finding, ...] = ()


async def check_fetched(
    manifest: Manifest, fetcher: "AssetFetcher", *, progress: Progress
) -> Fetched:
    """Fetch every output from its URL and compare hashes.

    An output that cannot be had proves nothing: links expire. That is `unknown`, never `fail`.
    """
    outputs = hashed_outputs(manifest)
    if not outputs:
        detail = "there are no outputs with a sha256 to fetch"
        return Fetched(Check(CheckName.FETCHED_BYTES_MATCH, Status.SKIP, detail))
    files = await asyncio.to_thread(_local_files, fetcher, [asset.url for asset in outputs])
    slots = asyncio.Semaphore(_CONCURRENCY)
    with progress("fetching", total=total_bytes(outputs), in_bytes=True) as advance:

        async def one(asset: Asset) -> Finding | None:
            async with slots:
                return await _compare(asset, fetcher, files, advance)

        found = await asyncio.gather(*(one(asset) for asset in outputs))
    findings = tuple(finding for finding in found if finding is not None)
    return Fetched(_check(len(outputs), findings), findings)


def _local_files(fetcher: "AssetFetcher", urls: list[str]) -> "LocalFiles":
    found: LocalFiles = {}
    for url in urls:
        try:
            found |= fetcher.local_files([url])
        except ValueError:
            found[url] = UnsafeUrlError("not a valid URL")
    return found


async def _compare(
    asset: Asset, fetcher: "AssetFetcher", files: "LocalFiles", advance: Advance
) -> Finding | None:
    try:
        async with fetcher.open(asset.url, files) as opened:
            source = opened.source
            if isinstance(source, Path):
                actual = await hash_file(source)
            elif isinstance(source, bytes):
                actual = hashlib.sha256(source).hexdigest()
            else:
                actual = await hash_stream(source, advance=advance)
    except UnsafeUrlError as exc:
        return _finding(_REFUSED, asset, str(exc))
    except GenblazeError as exc:
        return _finding(_FAILED, asset, str(exc))
    except ValueError:
        return _finding(_REFUSED, asset, "not a valid URL")
    if actual == asset.sha256:
        return None
    return _finding(_DIFFERS, asset, f"what is there hashes to {actual}")


def _finding(problem: str, asset: Asset, detail: str) -> Finding:
    subject = f"output {asset.asset_id[:8]} ({strip_url(asset.url)})"
    return Finding(problem, subject, redact(detail, max_chars=500))


def _check(total: int, findings: tuple[Finding, ...]) -> Check:
    if not findings:
        detail = f"{total} output(s) fetched, all hash to their sha256"
        return Check(CheckName.FETCHED_BYTES_MATCH, Status.PASS, detail)
    counts = Counter(finding.problem for finding in findings)
    status = Status.FAIL if counts[_DIFFERS] else Status.UNKNOWN
    detail = ", ".join(f"{count} {problem}" for problem, count in sorted(counts.items()))
    return Check(CheckName.FETCHED_BYTES_MATCH, status, f"{detail} (of {total} output(s))")
