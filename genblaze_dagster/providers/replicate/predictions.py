"""What a prediction of Replicate says: its state, its outputs, and why it failed."""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote_to_bytes, urlsplit

from genblaze_dagster.errors import (
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.providers.protocol import JobState, Output
from genblaze_dagster.providers.vendor.errors import ErrorKind, Refusal

STATES = {
    "starting": JobState.QUEUED,
    "processing": JobState.RUNNING,
    "succeeded": JobState.SUCCEEDED,
}
CANCELLED = ("canceled", "aborted")
"""`aborted`: its deadline passed before it started; not billed."""

_FILE_HOST = "replicate.delivery"
_DEEPEST = 8
_RESETS_IN = re.compile(r"~(\d+)\s*s\b")
_CODE = re.compile(r"\bE\d{4}\b")
# A failed prediction has words and sometimes a code. Beyond the NSFW message and the codes these
# are unverified; whole words, since "rate" stands in "generate".
_FAILURES: tuple[tuple[str, ErrorKind, bool], ...] = (
    (r"nsfw|safety|sensitive|flagged|moderation", ContentPolicyError, False),
    (r"e1001|out of memory", ModelError, True),
    (r"timed out|timeout|deadline", ProviderTimeoutError, True),
    (r"rate limit|429", RateLimitError, True),
    (r"prediction interrupted|e1000", ProviderUnavailableError, True),
    (r"invalid|must be|validation", InvalidRequestError, False),
)


def read_error(status: int, body: Any) -> Refusal:
    """Read a problem document; a throttled one may tell the seconds in its words only."""
    if not isinstance(body, dict):
        return Refusal()
    fields = cast(dict[str, Any], body)
    detail = fields.get("detail")
    text = next((t for t in (detail, fields.get("title")) if isinstance(t, str)), None)
    resets = _RESETS_IN.search(text or "") if status == 429 else None
    kind = ModelError if status == 404 else None
    return Refusal(text, kind=kind, retry_after=float(resets[1]) if resets else None)


def failure_of(prediction: Mapping[str, Any]) -> Refusal:
    """Return why a prediction failed."""
    error = prediction.get("error")
    text = error if isinstance(error, str) else None
    found = _CODE.search(text or "")
    code = found[0] if found else None
    for words, kind, transient in _FAILURES:
        if re.search(rf"\b({words})\b", text or "", re.IGNORECASE):
            return Refusal(text, code=code, kind=kind, transient=transient)
    return Refusal(text, code=code, kind=ModelError, transient=True)


def outputs_of(output: object, *, as_text: bool, token: str) -> tuple[Output, ...]:
    """Return the files in whatever a model put out, depth first; with `as_text` its text.

    The token goes along to Replicate's own file hosts. A text in pieces may name addresses: only
    where every piece is one are they files.
    """
    leaves = list(_leaves(output))
    files = tuple(found for leaf in leaves if (found := _file(leaf, token)) is not None)
    is_text = as_text and not isinstance(output, dict) and len(files) < len(leaves)
    if not as_text or (files and not is_text):
        return files
    text = "".join(leaves)
    return (Output(data=text.encode(), media_type="text/plain"),) if text else ()


def told_of(output: object) -> dict[str, Any]:
    """Return the texts and numbers that stand beside the files of an object."""
    members = cast(dict[str, object], output).items() if isinstance(output, dict) else ()
    return {
        name: value
        for name, value in members
        if isinstance(value, int | float)
        or (isinstance(value, str) and not value.startswith(("https://", "http://", "data:")))
    }


def _leaves(value: object, depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in cast(list[object], value):
            yield from _leaves(item, depth + 1)
    elif isinstance(value, dict):
        for item in cast(dict[str, object], value).values():
            yield from _leaves(item, depth + 1)


def _file(leaf: str, token: str) -> Output | None:
    if leaf.startswith("data:") and "," in leaf:
        return _of_data_uri(leaf)
    if not leaf.startswith("https://") or any(sign.isspace() for sign in leaf):
        return None
    try:
        host = urlsplit(leaf).hostname
    except ValueError:
        # Half an IPv6 address: a piece of text.
        return None
    if not host:
        return None
    is_ours = host == _FILE_HOST or host.endswith(f".{_FILE_HOST}")
    return Output(url=leaf, headers={"authorization": f"Bearer {token}"} if is_ours else {})


def _of_data_uri(uri: str) -> Output | None:
    """Return the file that stands in a data URI, None when it cannot be read."""
    head, _, encoded = uri.removeprefix("data:").partition(",")
    media_type, *settings = head.split(";")
    try:
        data = (
            b64decode(encoded, validate=True) if "base64" in settings else unquote_to_bytes(encoded)
        )
    except ValueError:
        return None
    return Output(data=data, media_type=media_type or None) if data else None
