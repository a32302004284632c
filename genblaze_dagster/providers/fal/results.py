"""What a finished run of fal holds: files, a text, and facts about them.

The files stand in a member whose name differs per model. A file is `{url, content_type?, ...}`, or
a bare URL, or with `sync_mode` a data URI.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.providers.fal.meshes import MESH_TYPES
from genblaze_dagster.providers.protocol import Output

_MEMBERS = (
    "images",
    "image",
    "video",
    "videos",
    "audio",
    "audio_file",
    "audio_url",
    "model_mesh",
    "model_glb",
)
# A video comes with its thumbnail, say: what was asked for is looked for first.
_OWN_MEMBERS: Mapping[Modality, tuple[str, ...]] = {
    Modality.VIDEO: ("video", "videos"),
    Modality.AUDIO: ("audio", "audio_file", "audio_url"),
}
_FACTS = (
    "seed",
    "duration_ms",
    "has_nsfw_concepts",
    "inferred_languages",
    "languages",
    "language_code",
    "language_probability",
)


def outputs_of(
    result: Mapping[str, Any],
    modality: Modality,
    *,
    form: object = None,
    by_word: bool = False,
) -> tuple[Output, ...]:
    """Return the files of a result, or its text as a file.

    Args:
        result: as the model returned it.
        modality: of the step; says which member is looked at first.
        form: format of a 3D model, of those that `model_urls` holds.
        by_word: whether a transcript was cut into words.
    """
    if modality is Modality.TEXT and isinstance(result.get("text"), str):
        return (_text(result, by_word),)
    if form is not None:
        others = result.get("model_urls")
        wanted = (
            cast(Mapping[str, Any], others).get(str(form)) if isinstance(others, dict) else None
        )
        return tuple(_files(wanted))
    for member in (*_OWN_MEMBERS.get(modality, ()), *_MEMBERS):
        if found := tuple(_files(result.get(member))):
            flags = _flags(result) if member == "images" else []
            return (*_marked(found, flags), *_files(result.get("textures")))
    return (_text(result, by_word),) if isinstance(result.get("text"), str) else ()


def facts_of(result: Mapping[str, Any], *, by_word: bool = False) -> dict[str, Any]:
    """Return what the record of a step keeps of a result, its files apart.

    Words without speakers are left out: they stand in the output's own facts.
    """
    facts = {name: result[name] for name in _FACTS if result.get(name) is not None}
    if timings := numbers_of(result.get("timings")):
        facts["timings"] = timings
    chunks = _chunks(result)
    if any("speaker" in chunk for chunk in chunks) or not (by_word or result.get("words")):
        facts |= {"chunks": chunks} if chunks else {}
    speakers = [
        {"speaker": part.get("speaker"), "start": start, "end": end}
        for part in _records(result.get("diarization_segments"))
        for start, end in _span(part)
    ]
    return {**facts, "diarization_segments": speakers} if speakers else facts


def numbers_of(value: object) -> dict[str, Any]:
    """Return the numbers of an object, such as seconds by what took them."""
    items = cast(Mapping[str, Any], value).items() if isinstance(value, dict) else ()
    return {name: number for name, number in items if _is_number(number)}


def is_flagged(result: Mapping[str, Any]) -> bool:
    """Whether fal's own checker flagged a picture, which may be blanked."""
    return any(_flags(result))


def words_of(result: Mapping[str, Any], *, by_word: bool) -> list[WordTiming]:
    """Return the words of a transcript with their times, where it was cut into words."""
    if not (by_word or result.get("words")):
        return []
    return [
        WordTiming(word=part["text"], start=part["start"], end=part["end"])
        for part in _chunks(result)
        if part["text"] and 0 <= part["start"] <= part["end"]
    ]


def _text(result: Mapping[str, Any], by_word: bool) -> Output:
    words = words_of(result, by_word=by_word)
    facts: dict[str, Any] = {"audio": AudioMetadata(word_timings=words)} if words else {}
    # Silence is no failure; a file of no bytes could not be told from a lost one.
    text = str(result["text"]).strip() or "\n"
    return Output(data=text.encode(), media_type="text/plain", facts=facts)


def _chunks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a transcript in seconds: text, start, end, and who spoke."""
    timed = [(part, span) for part in _records(result.get("chunks")) for span in _span(part)] or [
        (part, (part["start"], part["end"]))
        for part in _records(result.get("words"))
        if part.get("type") == "word" and _is_number(part.get("start"), part.get("end"))
    ]
    return [
        {
            "text": str(part.get("text") or "").strip(),
            "start": start,
            "end": end,
            **({"speaker": speaker} if (speaker := _speaker(part)) is not None else {}),
        }
        for part, (start, end) in timed
    ]


def _speaker(part: Mapping[str, Any]) -> str | None:
    speaker = part.get("speaker", part.get("speaker_id"))
    return speaker if isinstance(speaker, str) else None


def _span(part: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    times = part.get("timestamp")
    if isinstance(times, list) and len(cast(list[Any], times)) == 2:
        start, end = cast(list[Any], times)
        if _is_number(start, end):
            yield start, end


def _marked(outputs: Sequence[Output], flags: Sequence[bool]) -> Iterator[Output]:
    for position, output in enumerate(outputs):
        is_marked = position < len(flags) and flags[position]
        yield replace(output, facts={"metadata": {"flagged": True}}) if is_marked else output


def _flags(result: Mapping[str, Any]) -> list[bool]:
    flags = result.get("has_nsfw_concepts")
    return [flag is True for flag in cast(list[Any], flags)] if isinstance(flags, list) else []


def _files(value: object) -> Iterator[Output]:
    values = cast(list[object], value) if isinstance(value, list) else [value]
    for item in values:
        file = cast(Mapping[str, Any], item) if isinstance(item, dict) else {"url": item}
        url = file.get("url")
        if isinstance(url, str) and (output := _file(url, file)) is not None:
            yield output


def _file(url: str, file: Mapping[str, Any]) -> Output | None:
    if url.startswith("data:") and ";base64," in url:
        encoded = url.partition(";base64,")[2]
        try:
            return Output(data=b64decode(encoded, validate=True))
        except binascii.Error:
            return None
    if not url.startswith("https://"):
        return None
    return Output(url=url, media_type=_media_type(url, file))


def _media_type(url: str, file: Mapping[str, Any]) -> str | None:
    """Return the type where the bytes would not show it: of 3D models and vector graphics."""
    told = str(file.get("content_type") or "")
    if told.startswith("model/") or told == "image/svg+xml":
        return told
    extension = str(file.get("file_name") or url.partition("?")[0]).rpartition(".")[2].lower()
    return MESH_TYPES.get(extension)


def _records(value: object) -> list[Mapping[str, Any]]:
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Mapping[str, Any], item) for item in items if isinstance(item, dict)]


def _is_number(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
