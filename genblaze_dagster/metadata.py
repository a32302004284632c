"""What Dagster shows of a finished step: a preview, links, hashes and numbers that plot.

The UI draws Markdown under 1,000 characters inline, with images from `http(s)` and `data:` URLs; it
drops raw HTML, and it links to `http(s)` only.
"""

import base64
import io
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import dagster as dg

from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome

Metadata = dict[str, dg.MetadataValue]

PREVIEW_CHARS = 999
EVENT_BYTES = 16 * 1024
THUMBNAIL_SOURCE_BYTES = 32 * 1024 * 1024
_THUMBNAIL_BYTES = 500
_THUMBNAIL_SOURCE_PIXELS = 64_000_000
_CARD_PROMPT_CHARS = 160
_PROMPT_CHARS = 2_000
_REASON_CHARS = 500
_JOB_ID_CHARS = 200
_LISTED_OUTPUTS = 20
# Tried in turn until one fits: a smaller picture says more than a blurred one.
_SIZES_AND_QUALITIES = ((64, 40), (64, 20), (48, 30), (48, 10), (32, 10))
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|!~])")
# As people read them; the UI keeps this order.
_ORDER = (
    "preview",
    "media",
    "sha256",
    "manifest",
    "provider",
    "model",
    "cost_usd",
    "estimated_cost_usd",
    "reserved_usd",
    "duration_s",
    "bytes",
    "cached",
    "how",
    "generation_s",
    "attempts",
    "request_key",
    "run_id",
    "submission_id",
    "job_id",
    "prompt",
    "embedded",
    "embedded_sha256",
    "embedded_bytes",
    "not_embedded",
    "outputs",
)
# What goes first when an event is too large; everything else is small by construction.
_DROPPED_FIRST = ("outputs", "prompt")


def outcome_metadata(outcome: StepOutcome, *, thumbnail: bytes | None = None) -> Metadata:
    """Return the metadata of one materialization, 16 KB at the most.

    Args:
        outcome: the finished step. A prompt that is not public is not in its manifest, and so
            not here either.
        thumbnail: a WebP of the output, or of the image it was made from.
    """
    ref, step = outcome.ref, outcome.manifest.run.steps[-1]
    values: Metadata = {
        **media_metadata(ref, thumbnail=thumbnail, prompt=step.prompt),
        "attempts": dg.MetadataValue.int(outcome.attempts),
        "generation_s": dg.MetadataValue.float(round(outcome.elapsed_seconds, 3)),
        "cached": dg.MetadataValue.bool(outcome.origin in (Origin.FINISHED, Origin.REUSED)),
        "how": dg.MetadataValue.text(outcome.origin.value),
    }
    if isinstance(job_id := step.provider_payload.get("job_id"), str):
        # Some vendors' ids are URLs.
        values["job_id"] = dg.MetadataValue.text(redact(job_id, max_chars=_JOB_ID_CHARS))
    if outcome.submission_id is not None:
        values["submission_id"] = dg.MetadataValue.text(outcome.submission_id)
    # An unknown price is left out: zero would plot as free.
    amounts = {
        "cost_usd": outcome.paid_usd,
        "estimated_cost_usd": outcome.estimated_cost_usd,
        "reserved_usd": outcome.reserved_usd,
    }
    for name, usd in amounts.items():
        if usd is not None:
            # SQLite gives whole dollars as integers, which Dagster refuses.
            values[name] = dg.MetadataValue.float(float(usd))
    return within_budget(values)


def media_metadata(
    ref: MediaRef, *, thumbnail: bytes | None = None, prompt: str | None = None
) -> Metadata:
    """Return what is known of stored media, whoever made it."""
    first = ref.media[0]
    values: Metadata = {
        "preview": dg.MetadataValue.md(preview_card(ref, thumbnail=thumbnail, prompt=prompt)),
        "media": link(first.url),
        "sha256": dg.MetadataValue.text(first.sha256),
        "manifest": link(ref.manifest_url),
        "model": dg.MetadataValue.text(ref.model),
        "bytes": dg.MetadataValue.int(ref.size_bytes),
        "request_key": dg.MetadataValue.text(ref.generation_key),
        "run_id": dg.MetadataValue.text(ref.run_id),
    }
    if ref.provider:
        values["provider"] = dg.MetadataValue.text(ref.provider)
    if first.duration is not None:
        values["duration_s"] = dg.MetadataValue.float(first.duration)
    if prompt:
        values["prompt"] = dg.MetadataValue.md(_escape(_cut(prompt, _PROMPT_CHARS)))
    if first.embedded is not None:
        values["embedded"] = link(first.embedded.url)
        values["embedded_sha256"] = dg.MetadataValue.text(first.embedded.sha256)
        values["embedded_bytes"] = dg.MetadataValue.int(first.embedded.size_bytes)
    reasons = [m.not_embedded for m in ref.media if m.not_embedded is not None]
    if reasons:
        values["not_embedded"] = dg.MetadataValue.text(_cut(reasons[0], _REASON_CHARS))
    if len(ref.media) > 1:
        listed = [_listed(m) for m in ref.media[:_LISTED_OUTPUTS]]
        values["outputs"] = dg.MetadataValue.json({"count": len(ref.media), "first": listed})
    return within_budget(values)


def _listed(media: MediaObject) -> dict[str, str]:
    listed = {"sha256": media.sha256, "url": media.url}
    if media.embedded is not None:
        listed["embedded_sha256"] = media.embedded.sha256
        listed["embedded_url"] = media.embedded.url
    return listed


def within_budget(values: Metadata) -> Metadata:
    """Put values in their order, and drop the least telling ones until they stay below 16 KB."""
    kept = {name: values[name] for name in _ORDER if name in values}
    for name in _DROPPED_FIRST:
        if _size(kept) <= EVENT_BYTES:
            break
        kept.pop(name, None)
    return kept


def link(url: str) -> dg.MetadataValue:
    """Return a clickable URL for `http(s)`; for files and memory a path to copy."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return dg.MetadataValue.url(url)
    return dg.MetadataValue.path(unquote(parts.path) if parts.scheme == "file" else url)


def preview_card(
    ref: MediaRef, *, thumbnail: bytes | None = None, prompt: str | None = None
) -> str:
    """Return a Markdown card that the UI draws inline: picture or link, facts, start of the prompt.

    Always below 1,000 characters; what does not fit is left out, the prompt first.
    """
    first = ref.media[0]
    label = _facts(first)
    href = first.url if urlsplit(first.url).scheme in ("http", "https") else None
    picture = _data_uri(thumbnail) if thumbnail and len(thumbnail) <= _THUMBNAIL_BYTES else None
    head = f"![{label}]({picture})" if picture else _escape(label)
    # A closing bracket would end the link early; such a URL is still under `media`.
    if href and ")" not in href and len(head) + len(href) + 8 < PREVIEW_CHARS:
        head = f"[{head}]({href})"
    lines = [head]
    if picture:
        lines.append(_escape(f"{ref.model}: {label}"))
    if prompt:
        lines.append(_escape(_cut(prompt, _CARD_PROMPT_CHARS)))
    card = ""
    for line in lines:
        longer = f"{card}\n\n{line}" if card else line
        if len(longer) > PREVIEW_CHARS:
            break
        card = longer
    return card


def thumbnail(data: bytes, media: MediaObject) -> bytes | None:
    """Return a WebP of at most 500 bytes, or None when Pillow is not there or cannot read it.

    Takes milliseconds of processor time; call it off the event loop.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    if (media.width or 0) * (media.height or 0) > _THUMBNAIL_SOURCE_PIXELS:
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            # JPEG decodes straight to a smaller size; other formats ignore this.
            image.draft("RGB", (128, 128))
            small = image.convert("RGB")
            small.thumbnail((128, 128))
        for size, quality in _SIZES_AND_QUALITIES:
            small.thumbnail((size, size))
            encoded = io.BytesIO()
            small.save(encoded, "WEBP", quality=quality, method=4)
            if encoded.tell() <= _THUMBNAIL_BYTES:
                return encoded.getvalue()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        # A picture Pillow cannot read is still stored and proven; it only has no preview.
        return None
    return None


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _facts(media: MediaObject) -> str:
    parts = [media.media_type]
    if media.width and media.height:
        parts.append(f"{media.width}x{media.height}")
    if media.duration is not None:
        parts.append(f"{media.duration:.1f} s")
    parts.append(size_text(media.size_bytes))
    return ", ".join(parts)


def size_text(size_bytes: int) -> str:
    """Return a size for people, in powers of 1,000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _size(values: Mapping[str, dg.MetadataValue]) -> int:
    return sum(len(name) + len(str(value.value).encode()) for name, value in values.items())
