"""Media to and from Google: in the request, uploaded before it, and downloaded with the key.

Files API: `POST /upload/v1beta/files` opens a resumable upload and names its address in a header;
the bytes go there without the key. Files live 48 hours and have at most 2 GB. Videos are processed
first: `GET /v1beta/files/{id}` until their state is ACTIVE.
Quirks: base64 comes in the standard alphabet or the one for URLs. Results of Veo need the key to be
downloaded, and may redirect to a host that must not get it.
"""

import asyncio
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.errors import (
    InvalidRequestError,
    OutputError,
    ProviderTimeoutError,
)
from genblaze_dagster.providers.google.vendor import KEY_HEADER, VERSION, part_of
from genblaze_dagster.providers.protocol import InputMedia, Output
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Api, json_object
from genblaze_dagster.providers.vendor.errors import nothing_submitted

MAX_INLINE_BYTES = 14 * 1024 * 1024
"""Of all media in one request, which may have 20 MB: base64 makes four bytes of three."""
MAX_FILE_BYTES = 2 * 1000**3
MOST_LOOKS = 300
"""How often an uploaded file is looked at before it is given up."""

_URL_SAFE = str.maketrans("-_", "+/")
_NAME = re.compile(r"files/[A-Za-z0-9_-]+")
_PROCESSING_SECONDS = 2.0
_UPLOAD_SECONDS = 600.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at Google: `name` is `files/...`, `uri` the address a request names it by."""

    name: str
    uri: str
    media_type: str

    def part(self) -> dict[str, Any]:
        """Return the part of a message that stands for the file."""
        return {"fileData": {"fileUri": self.uri, "mimeType": self.media_type}}


def inline_part(data: bytes, media_type: str) -> dict[str, Any]:
    """Return the part of a message that holds the bytes."""
    return {"inlineData": {"mimeType": media_type, "data": b64encode(data).decode()}}


async def media_parts(api: Api, items: Iterable[InputMedia]) -> list[dict[str, Any]]:
    """Return inputs as parts of a message: in it as long as there is room, else uploaded.

    Raises:
        ProviderError: an input cannot be read or uploaded; nothing was generated.
    """
    parts: list[dict[str, Any]] = []
    room = MAX_INLINE_BYTES
    for item in items:
        data = await inputs.read(api.vendor.name, item)
        if len(data) <= room:
            room -= len(data)
            parts.append(inline_part(data, item.asset.media_type))
        else:
            name = inputs.file_name(item)
            stored = await upload(api, data, media_type=item.asset.media_type, name=name)
            parts.append(stored.part())
    return parts


async def upload(
    api: Api, data: bytes, *, media_type: str, name: str, sleep: Sleep = asyncio.sleep
) -> StoredFile:
    """Upload a file and wait until it can be used.

    Raises:
        ProviderError: `sent` is False, for nothing was generated, whatever became of the file.
    """
    with nothing_submitted():
        file = await _uploaded(api, data, media_type, name)
        return await _active(api, file, media_type, sleep)


async def _uploaded(api: Api, data: bytes, media_type: str, name: str) -> dict[str, Any]:
    described = {
        "x-goog-upload-protocol": "resumable",
        "x-goog-upload-header-content-length": str(len(data)),
        "x-goog-upload-header-content-type": media_type,
    }
    opened = await api.call(
        "POST",
        f"/upload{VERSION}/files",
        json={"file": {"display_name": name, "mime_type": media_type, "size_bytes": len(data)}},
        headers={"x-goog-upload-command": "start", **described},
    )
    target = opened.headers.get("x-goog-upload-url")
    if not target:
        raise OutputError("google: the upload was given no address", provider=api.vendor.name)
    answer = await api.call(
        "POST",
        target,
        content=data,
        headers={
            "content-type": "application/json",
            "x-goog-upload-command": "upload, finalize",
            "x-goog-upload-offset": "0",
            **described,
        },
        seconds=_UPLOAD_SECONDS,
        with_key=False,
    )
    return part_of(json_object(answer, api.vendor.name), "file")


async def _active(api: Api, file: dict[str, Any], media_type: str, sleep: Sleep) -> StoredFile:
    name, uri = file.get("name"), file.get("uri")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(uri, str):
        raise OutputError("google: the upload was given no name", provider=api.vendor.name)
    for _ in range(MOST_LOOKS):
        state = file.get("state", "ACTIVE")
        if state == "ACTIVE":
            return StoredFile(name, uri, media_type)
        if state == "FAILED":
            raise InvalidRequestError(
                f"google: an input of type {media_type} cannot be processed; check the file",
                provider=api.vendor.name,
                param="inputs",
            )
        await sleep(_PROCESSING_SECONDS)
        file = await api.document("GET", f"{VERSION}/{name}")
    raise ProviderTimeoutError(
        f"google: an uploaded file is still processed after {MOST_LOOKS} looks; try again later",
        provider=api.vendor.name,
    )


def download_headers(api: Api, uri: str) -> dict[str, str]:
    """Return the headers a download needs: the key, for the API's own address only."""
    return {KEY_HEADER: api.key} if uri.startswith(f"{api.base_url}/") else {}


def file_name_of(uri: str) -> str | None:
    """Return the name `files/...` inside of the address of a file."""
    found = _NAME.search(uri.partition("?")[0])
    return found[0] if found else None


def address_of(api: Api, name: str) -> str | None:
    """Return the address of a result by its name, as Google gave it out; None for no name."""
    if _NAME.fullmatch(name) is None:
        return None
    return f"{api.base_url}{VERSION}/{name}:download?alt=media"


def decoded(text: object) -> bytes:
    """Return the bytes of base64 in either alphabet, with or without its padding.

    Raises:
        ValueError: it is none, or empty.
    """
    if not isinstance(text, str) or not text:
        raise ValueError("no base64")
    plain = text.translate(_URL_SAFE).rstrip("=")
    return b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def readable(encoded: Iterable[tuple[object, object]]) -> tuple[list[Output], int]:
    """Return the pictures of an answer, given as base64 and type, and how many are broken.

    All of them are paid: one that is broken must not cost the others.
    """
    outputs: list[Output] = []
    broken = 0
    for text, media_type in encoded:
        try:
            data = decoded(text)
        except ValueError:
            broken += 1
            continue
        outputs.append(
            Output(data=data, media_type=media_type if isinstance(media_type, str) else None)
        )
    return outputs, broken
