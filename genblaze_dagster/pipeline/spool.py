"""Paid results that could not be stored, kept on this machine until the store is back.

A vendor that answers with the output itself has no job to ask again: when the store is down for
longer than the retries last, the bytes exist nowhere else. They lie in a private folder, under the
id of their submission, and the ledger says so in place of a job id. The next attempt on this machine
stores them from there.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from genblaze_dagster.errors import GenblazeError, LedgerError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.download import stream_download
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.protocol import Output, Result

SPOOL_VARIABLE: Final = "GENBLAZE_SPOOL"
MOST_SPOOLED_BYTES: Final = 8 * 1024**3

_PLACE = "spool:"
_RECORD = "result.json"
_PART = ".part"
_CHUNK_BYTES = 1024 * 1024
# The process that wrote it has died.
_ABANDONED_SECONDS = 24 * 3600.0
_log = logging.getLogger(__name__)


class _NoRoomError(Exception):
    """The spool holds as much as it may."""


def is_spooled(job_id: str | None) -> bool:
    """Whether what stands in place of a job id says that the result is in a spool."""
    return job_id is not None and job_id.startswith(_PLACE)


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder of results, one below it per submission; safe to use from many processes.

    Args:
        folder: where; made when it is needed, readable by its owner only.
        most_bytes: what all results together may take; beyond it none is kept.
    """

    folder: Path
    most_bytes: int = MOST_SPOOLED_BYTES

    async def keep(self, submission_id: str, result: Result) -> str | None:
        """Keep a result durably and return what the ledger records as its place.

        Returns None when it cannot be kept: no room, a broken disk, or a download that fails.
        """
        part = self.folder / f"{submission_id}{_PART}"
        try:
            await asyncio.to_thread(_make_private, part)
            room = self.most_bytes - await asyncio.to_thread(_size, self.folder)
            records: list[Mapping[str, Any]] = []
            for output in result.outputs:
                size, record = await _write(output, part, room)
                room -= size
                records.append(record)
            await asyncio.to_thread(_seal, part, self._of(submission_id), result, records)
        except (GenblazeError, OSError, TypeError, ValueError, _NoRoomError) as exc:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            _log.error(
                "the paid result of submission %s cannot be kept in %s: %s",
                submission_id,
                self.folder,
                redact(f"{type(exc).__name__}: {exc}", max_chars=200),
            )
            return None
        _log.warning("the store is down: submission %s waits in %s", submission_id, self.folder)
        return f"{_PLACE}{socket.gethostname()}:{self.folder.absolute()}"

    def find(self, submission_id: str) -> Result | None:
        """Return a kept result, its bytes checked; None when it is not here or damaged. Blocks."""
        folder = self._of(submission_id)
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            return Result(
                outputs=tuple(_read(folder, one) for one in record["outputs"]),
                cost_usd=record["cost_usd"],
                model_version=record["model_version"],
                provider_payload=record["provider_payload"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            _log.error("%s cannot be read (%s)", folder, type(exc).__name__)
            return None

    def drop(self, submission_id: str) -> None:
        """Remove a result that is stored. Blocks."""
        shutil.rmtree(self._of(submission_id), ignore_errors=True)

    def _of(self, submission_id: str) -> Path:
        return self.folder / submission_id


def default_spool(ledger: Ledger) -> Spool | None:
    """Return the spool of GENBLAZE_SPOOL, else beside the ledger's file; None when it has none."""
    named = os.environ.get(SPOOL_VARIABLE)
    if named:
        return Spool(Path(named))
    return None if ledger.folder is None else Spool(ledger.folder / "spool")


async def spooled_result(place: str, submission_id: str) -> Result:
    """Return the result of a submission whose place is in the ledger.

    Raises:
        LedgerError: it is in the spool of another machine, or lost there.
    """
    result = await asyncio.to_thread(_spool_of(place).find, submission_id)
    if result is None:
        raise LedgerError(
            f"submission {submission_id} is paid, and its result was put into a folder on another "
            f"machine while the store was down ({place.removeprefix(_PLACE)}); run it there, or "
            "cancel it in the ledger to pay again"
        )
    return result


async def drop_spooled(place: str, submission_id: str) -> None:
    """Remove what is stored by now."""
    await asyncio.to_thread(_spool_of(place).drop, submission_id)


def _spool_of(place: str) -> Spool:
    # Where the machine or its settings are others, the folder is not there.
    return Spool(Path(place.removeprefix(_PLACE).partition(":")[2]))


async def _chunks(output: Output) -> AsyncIterator[bytes]:
    if output.data is not None:
        yield output.data
    elif output.path is not None:
        with await asyncio.to_thread(output.path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk
    elif output.url is not None:
        async with stream_download(output.url, headers=output.headers) as download:
            async for chunk in download.media():
                yield chunk


async def _write(output: Output, folder: Path, room: int) -> tuple[int, Mapping[str, Any]]:
    """Write one output under its hash; return its size and its record."""
    digest, size = hashlib.sha256(), 0
    path = folder / _PART
    with await asyncio.to_thread(_new_file, path) as file:
        async for chunk in _chunks(output):
            size += len(chunk)
            if size > room:
                raise _NoRoomError(f"there is room for {room} bytes only")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(_sync, file)
    name = digest.hexdigest()
    path.replace(folder / name)
    facts = dict(output.facts)
    return size, {
        "sha256": name,
        "size_bytes": size,
        "media_type": output.media_type,
        "facts": facts,
    }


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _make_private(part: Path) -> None:
    """Make an empty folder that only its owner can look into, and the spool around it."""
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in part.parent.glob(f"*{_PART}"):
        if other == part or time.time() - other.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    part.mkdir(mode=0o700)


def _seal(part: Path, folder: Path, result: Result, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Write the record last, and give the folder its name: it is whole or it is not there."""
    record = {
        "cost_usd": result.cost_usd,
        "model_version": result.model_version,
        "provider_payload": dict(result.provider_payload),
        "outputs": outputs,
    }
    with _new_file(part / _RECORD) as file:
        file.write(json.dumps(record).encode())
        _sync(file)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    for directory in (folder, folder.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(folder: Path, record: Mapping[str, Any]) -> Output:
    path = folder / record["sha256"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["sha256"]:
        raise ValueError("the bytes have changed")
    return Output(path=path, media_type=record["media_type"], facts=record["facts"])


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # Another step may be done with its own meanwhile.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
