"""The answer of `generateContent`, which pictures and chats come in: parts, and why there are none.

An answer is HTTP 200 also when it was refused: then `promptFeedback.blockReason` or the candidate's
`finishReason` says so. Parts with `thought: true` are drafts and thoughts, not the answer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from genblaze_dagster.errors import ContentPolicyError
from genblaze_dagster.providers.google.vendor import dicts, part_of
from genblaze_dagster.providers.vendor.errors import Refusal

_FILTERED = frozenset(
    {
        "BLOCKLIST",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "SAFETY",
        "SPII",
    }
)


def candidates_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the candidates of an answer."""
    return dicts(body.get("candidates"))


def parts_of(candidate: Mapping[str, Any], *, thought: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the parts of a candidate, or with `thought` those of its thoughts."""
    for part in dicts(part_of(candidate, "content").get("parts")):
        if bool(part.get("thought")) is thought:
            yield part


def text_of(candidate: Mapping[str, Any], *, thought: bool = False) -> str:
    """Return the text of a candidate, or with `thought` that of its thoughts."""
    texts = (part.get("text") for part in parts_of(candidate, thought=thought))
    return "".join(text for text in texts if isinstance(text, str))


def filtered(body: Mapping[str, Any]) -> Refusal | None:
    """Return what the filter says, None when it let the answer pass."""
    blocked = part_of(body, "promptFeedback").get("blockReason")
    if blocked:
        return Refusal("the prompt was blocked", code=str(blocked), kind=ContentPolicyError)
    for candidate in candidates_of(body):
        reason = candidate.get("finishReason")
        if reason in _FILTERED:
            said = candidate.get("finishMessage")
            text = said if isinstance(said, str) else "the answer was filtered"
            return Refusal(text, code=str(reason), kind=ContentPolicyError)
    return None
