"""References as JSON: what older releases wrote, what this one adds, and what is no reference."""

import json
from dataclasses import replace
from typing import Any

import pytest

from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.errors import SchemaError

OLD: dict[str, Any] = {
    "version": 1,
    "asset_key": "story/image",
    "partition_key": "a",
    "run_id": "run",
    "step_id": "step",
    "manifest_key": "manifests/run.json",
    "manifest_url": "memory://x/manifests/run.json",
    "canonical_hash": "cd" * 32,
    "generation_key": "ef" * 32,
    "provider": "local",
    "model": "m",
    "modality": "image",
    "cost_usd": None,
    "created_at": "2026-01-01T00:00:00+00:00",
    "media": [
        {
            "asset_id": "id",
            "sha256": "ab" * 32,
            "size_bytes": 10,
            "media_type": "image/png",
            "key": "assets/x.png",
            "url": "memory://x/assets/x.png",
            "width": 8,
            "height": None,
            "duration": None,
        }
    ],
}
RENDITION = Rendition("12" * 32, 20, "assets/y.png", "memory://x/assets/y.png")


def with_media(**fields: object) -> dict[str, Any]:
    return {**OLD, "media": [{**OLD["media"][0], **fields}]}


def test_a_reference_of_an_older_release_is_read_and_written_as_it_was() -> None:
    """Without a rendition there is no trace of the field, so both compare equal."""
    ref = MediaRef.from_dict(OLD)
    assert ref.media[0].embedded is None
    assert ref.to_dict() == OLD


def test_a_rendition_goes_through_json_and_back() -> None:
    """Hash, size, key and URL of the derived file; the data version stays that of the output."""
    ref = MediaRef.from_dict(OLD)
    embedded = replace(ref, media=(replace(ref.media[0], embedded=RENDITION),))
    again = MediaRef.from_dict(json.loads(json.dumps(embedded.to_dict())))
    assert again == embedded != ref
    assert again.media[0].embedded == RENDITION
    assert (again.data_version, again.size_bytes) == (ref.data_version, ref.size_bytes)


def test_a_reason_goes_through_json_and_back() -> None:
    """Why there is no rendition is kept in its place."""
    ref = MediaRef.from_dict(with_media(not_embedded="no"))
    assert ref.media[0].not_embedded == "no"
    assert "embedded" not in ref.to_dict()["media"][0]
    assert MediaRef.from_dict(ref.to_dict()) == ref


def test_what_a_newer_release_adds_is_ignored() -> None:
    """Unknown keys at every level."""
    rendition = {"sha256": "s", "size_bytes": 1, "key": "k", "url": "u", "new": 1}
    ref = MediaRef.from_dict({**with_media(new=1, embedded=rendition), "new": 1})
    assert isinstance(ref.media[0], MediaObject)
    assert ref.media[0].embedded == Rendition("s", 1, "k", "u")


@pytest.mark.parametrize(
    "broken",
    [
        with_media(embedded={"sha256": "s"}),
        with_media(embedded="assets/y.png"),
        with_media(embedded=[1]),
        {**OLD, "media": ["x"]},
        {**OLD, "media": None},
        {name: value for name, value in OLD.items() if name != "run_id"},
    ],
    ids=["part", "text", "list", "no object", "no media", "no run"],
)
def test_what_is_no_reference_is_a_schema_error(broken: dict[str, Any]) -> None:
    """Whatever is missing or of another kind."""
    with pytest.raises(SchemaError, match="incomplete"):
        MediaRef.from_dict(broken)
