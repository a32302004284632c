"""Results in the forms NVIDIA's models give them: base64 in JSON, a zip, or the file itself."""

import zlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.net.client import MAX_ANSWER_BYTES, HttpAnswer

FILTERED = "CONTENT_FILTERED"
ERROR = "ERROR"
BROKEN = "UNREADABLE"
"""Our own word for bytes that cannot be read; NVIDIA says the other two."""

_FIELDS = ("base64", "b64_video", "video", "image", "audio")
_ZIP = b"PK\x03\x04"
_USUAL_MEMBER = "video.mp4"
_MEDIA_SUFFIXES = (".mp4", ".webm", ".png", ".jpg", ".jpeg", ".wav")


class UnreadableError(ValueError):
    """An answer holds no file that can be read; says why."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of an answer, and what it says about them.

    `seeds` are those that were used. `reasons` are what stands in the place of files there are not:
    `CONTENT_FILTERED`, `ERROR`, `UNREADABLE`.
    """

    data: list[bytes] = field(default_factory=list[bytes], repr=False)
    seeds: list[int] = field(default_factory=list[int])
    reasons: list[str] = field(default_factory=list[str])
    revised_prompt: str | None = field(default=None, repr=False)


def read_files(answer: HttpAnswer) -> Files:
    """Return the files of a finished job's answer.

    Raises:
        UnreadableError: there are none, or they cannot be read.
    """
    content = answer.content
    if content.startswith(_ZIP):
        return Files([_unzipped(content)])
    if sniff_media_type(content[:64]) is not None:
        return Files([content])
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UnreadableError("the answer is neither JSON nor a media file")
    return _from_json(cast(dict[str, Any], body))


def _from_json(body: Mapping[str, Any]) -> Files:
    artifacts = body.get("artifacts")
    entries = cast(list[object], artifacts) if isinstance(artifacts, list) else [body]
    revised = body.get("upsampled_prompt")
    files = Files(revised_prompt=revised if isinstance(revised, str) else None)
    for entry in entries:
        if isinstance(entry, dict):
            _read_entry(files, cast(dict[str, Any], entry))
    if not files.data and not files.reasons:
        raise UnreadableError("the answer holds no file")
    if not files.data and BROKEN in files.reasons:
        raise UnreadableError("the answer holds broken base64")
    return files


def _read_entry(files: Files, entry: Mapping[str, Any]) -> None:
    reason = str(entry.get("finishReason") or entry.get("finish_reason") or "").upper()
    if reason in (FILTERED, ERROR):
        files.reasons.append(reason)
        return
    text = next((t for name in _FIELDS if isinstance(t := entry.get(name), str) and t), None)
    if text is None:
        return
    try:
        # Some put a data URI where others put bare base64.
        files.data.append(b64decode(text.rpartition(",")[2], validate=True))
    except ValueError:
        # It must not cost the others, which are paid as well.
        files.reasons.append(BROKEN)
        return
    seed = entry.get("seed")
    if isinstance(seed, int):
        files.seeds.append(seed)


def _unzipped(content: bytes) -> bytes:
    """Return the media file of an archive."""
    try:
        with ZipFile(BytesIO(content)) as archive:
            member = _media_member(archive.infolist())
            with archive.open(member) as file:
                # The size an archive declares may be a lie.
                data = file.read(MAX_ANSWER_BYTES + 1)
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as exc:
        raise UnreadableError(f"the archive cannot be read ({type(exc).__name__})") from exc
    if len(data) > MAX_ANSWER_BYTES:
        raise UnreadableError(f"the archive's file is larger than {MAX_ANSWER_BYTES} bytes")
    if not data:
        raise UnreadableError("the archive's file is empty")
    return data


def _media_member(members: list[ZipInfo]) -> ZipInfo:
    usual = [m for m in members if m.filename.rpartition("/")[2] == _USUAL_MEMBER]
    media = [m for m in members if m.filename.lower().endswith(_MEDIA_SUFFIXES)]
    found = next(iter((*usual, *media)), None)
    if found is None:
        raise UnreadableError("the archive holds no media file")
    return found
