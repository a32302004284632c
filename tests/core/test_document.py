"""The quick way to write a manifest gives what the definition gives."""

import json
import math
import unicodedata
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genblaze_dagster.core.document import hashed_bytes
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step, VideoMetadata, is_valid_sha256
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError
from tests.core.strategies import runs

RUN_OPERATION = {
    "status",
    "created_at",
    "started_at",
    "completed_at",
    "idempotency_key",
    "parent_run_id",
}
STEP_OPERATION = {
    "status",
    "error",
    "error_code",
    "retries",
    "cost_usd",
    "started_at",
    "completed_at",
    "provider_payload",
    "step_index",
}


def normal(value: Any) -> Any:
    """The normalisation of the format, written as simply as possible."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, float):
        return round(value, 10) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    return value


def reference_text(value: Any) -> bytes:
    text = json.dumps(normal(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def reference_payload(run: Run, version: str) -> bytes:
    """What is hashed of a run, by the lists of the format."""
    reproducible = version >= "1.4"
    document = run.model_dump()
    drop(document, RUN_OPERATION | ({"run_id"} if reproducible else set()))
    for step in document["steps"]:
        drop(step, STEP_OPERATION | ({"step_id", "run_id"} if reproducible else set()))
        for asset in step["assets"] + step["inputs"]:
            url = asset["url"]
            if reproducible:
                drop(asset, {"asset_id", "url"})
            if version == "1.6" and not is_valid_sha256(asset["sha256"]):
                asset["asset_integrity"] = "url_only_unverified"
                asset["unverified_asset_url"] = strip_credentials(url)
    return reference_text({"run": document, "schema_version": version})


def drop(document: dict[str, Any], names: set[str]) -> None:
    for name in names:
        del document[name]


def step(**fields: Any) -> Step:
    return Step(model="m", provider="p", **fields)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(runs(), st.sampled_from(["1.0", "1.3", "1.4", "1.5", "1.6"]))
def test_hashed_text_equals_the_definition(run: Run, version: str) -> None:
    """Whatever a run holds, the text under its hash is the one the format defines."""
    assert hashed_bytes(run, version) == reference_payload(run, version)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(runs())
def test_stored_text_equals_the_definition(run: Run) -> None:
    """Whatever a run holds, its stored form is the one the format defines."""
    manifest = Manifest.from_run(run)
    assert manifest.to_canonical_json().encode() == reference_text(manifest.model_dump())


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, derandomize=True, database=None)
@given(runs(), st.sampled_from(["1.0", "1.5", "1.6"]))
def test_texts_equal_the_definition_at_length(run: Run, version: str) -> None:
    """The same, over many more runs."""
    assert hashed_bytes(run, version) == reference_payload(run, version)
    manifest = Manifest.from_run(run)
    assert manifest.to_canonical_json().encode() == reference_text(manifest.model_dump())


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(st.floats() | st.floats(-1e-3, 1e-3) | st.floats(-1e6, 1e6) | st.floats(1e14, 1e18))
def test_every_float_prints_as_defined(value: float) -> None:
    """Floats print as Python prints them after rounding, at every magnitude."""
    run = Run(steps=[step(params={"f": value}, cost_usd=value)])
    assert hashed_bytes(run, "1.5") == reference_payload(run, "1.5")
    manifest = Manifest.from_run(run)
    assert manifest.to_canonical_json().encode() == reference_text(manifest.model_dump())


def test_every_character_prints_as_defined() -> None:
    """Every character of the basic plane is escaped and composed as defined."""
    for start in range(0, 0xD800, 64):
        run = Run(name="".join(map(chr, range(start, start + 64))))
        assert hashed_bytes(run, "1.5") == reference_payload(run, "1.5")


def test_an_asset_object_in_params_is_written_whole() -> None:
    """The fields that are left out of assets stay in when an asset is somebody's parameter."""
    asset = Asset(url="https://a.test/b", media_type="image/png")
    run = Run(steps=[step(params={"reference": asset})])
    assert b"https://a.test/b" in hashed_bytes(run, "1.5")
    assert hashed_bytes(run, "1.5") == reference_payload(run, "1.5")


def test_fields_of_subclasses_are_not_written() -> None:
    """A reader drops what it does not know, so a subclass's own fields would break the hash."""

    class Labelled(Asset):
        label: str

    plain = Asset(url="u", media_type="image/png")
    labelled = Labelled(**plain.model_dump(), label="x")
    with_label = Manifest.from_run(Run(run_id="r", steps=[step(step_id="s", assets=[labelled])]))
    without = Manifest.from_run(Run(run_id="r", steps=[step(step_id="s", assets=[plain])]))
    assert with_label.canonical_hash == without.canonical_hash
    assert "label" not in with_label.to_canonical_json()


def test_changes_after_hashing_are_seen() -> None:
    """Nothing is remembered between two writings, whatever was changed in place."""
    made = step(params={"a": {"b": 1}}, assets=[Asset(url="u", media_type="image/png")])
    manifest = Manifest.from_run(Run(steps=[made]))
    seen = {manifest.canonical_hash}
    texts = {manifest.to_canonical_json()}
    made.params["a"]["b"] = 2
    seen.add(manifest.compute_hash())
    texts.add(manifest.to_canonical_json())
    made.assets[0].video = VideoMetadata(frame_rate=1 / 3)
    seen.add(manifest.compute_hash())
    texts.add(manifest.to_canonical_json())
    assert len(seen) == len(texts) == 3


@pytest.mark.parametrize(
    "params",
    [{"m": {1: "a"}}, {"b": b"x"}, {"s": {1, 2}}, {"t": "\udc00"}, {"\udc00": 1}, {"n": 10**5000}],
    ids=["number key", "bytes", "set", "lone surrogate", "lone surrogate key", "long integer"],
)
def test_what_cannot_be_stored_is_refused(params: dict[str, Any]) -> None:
    """Content that no reader could hash again is a typed error, not a broken manifest."""
    with pytest.raises(ManifestError):
        Manifest.from_run(Run(steps=[step(params=params)]))


def test_depth_is_counted_from_the_root() -> None:
    """Below a parameter 95 containers fit, and 96 with something inside do not."""

    def deep(levels: int) -> Run:
        value: object = 1
        for _ in range(levels):
            value = {"k": value}
        return Run(steps=[step(params={"k": value})])

    assert len(hashed_bytes(deep(95), "1.5")) > 500
    with pytest.raises(ManifestError, match="100 levels"):
        hashed_bytes(deep(96), "1.5")


def test_a_wrong_object_among_the_steps_is_named() -> None:
    """Something else where a step or asset belongs is a typed error."""
    run = Run(steps=[step()])
    run.steps[0].assets.append({"url": "u"})  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=r"dict found.* Asset"):
        hashed_bytes(run, "1.5")
    with pytest.raises(ManifestError, match=r"dict found.* Asset"):
        Manifest(run=run, canonical_hash="0" * 64).to_canonical_json()
    run.steps[0] = Asset(url="u", media_type="image/png")  # type: ignore[call-overload]
    with pytest.raises(ManifestError, match=r"Asset found.* Step"):
        hashed_bytes(run, "1.5")
    with pytest.raises(ManifestError, match=r"Asset found.* Step"):
        Manifest(run=run, canonical_hash="0" * 64).to_canonical_json()
