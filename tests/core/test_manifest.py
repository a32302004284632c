"""Hashing, writing, embedding and verifying manifests, and what may go into one."""

import enum
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from genblaze_dagster.core.document import hashed_bytes
from genblaze_dagster.core.enums import Modality, RunStatus
from genblaze_dagster.core.form import HASHED
from genblaze_dagster.core.manifest import Manifest, ManifestVerification, check_json
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.core.plain import NotPlainError, hashed, stored
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.errors import ManifestError

SHA256 = "ab" * 32


def make_run(**fields: Any) -> Run:
    output = Asset(url="https://a.test/b", media_type="image/png", sha256=SHA256, size_bytes=3)
    step = Step(model="m", provider="p", prompt="a lighthouse", assets=[output], **fields)
    return Run(name="r", steps=[step])


def test_from_run_hashes_and_verifies() -> None:
    """A new manifest has its hash and verifies."""
    manifest = Manifest.from_run(make_run())
    assert len(manifest.canonical_hash) == 64
    assert manifest.verify_hash()
    assert manifest.verification_report() == ManifestVerification(True, (), ())
    assert manifest.verify()


def test_the_hash_is_of_what_was_made_not_of_how_it_went() -> None:
    """Ids, states, times, costs and URLs change nothing; prompt, model and output bytes do."""
    before = Manifest.from_run(make_run()).canonical_hash
    run = make_run(cost_usd=1.5, retries=2, provider_payload={"id": "x"}, step_index=3)
    run.status, run.completed_at = RunStatus.COMPLETED, datetime.now(UTC)
    run.steps[0].assets[0].url = "https://elsewhere.test/b"
    assert Manifest.from_run(run).canonical_hash == before
    run.steps[0].assets[0].sha256 = "cd" * 32
    assert Manifest.from_run(run).canonical_hash != before
    other = make_run()
    other.steps[0].prompt = "a lighthouse at dusk"
    assert Manifest.from_run(other).canonical_hash != before


def test_ordinary_manifests_take_the_quick_way() -> None:
    """Rounded floats, times, composed text and word timings need no fallback."""
    run = make_run(
        params={"a": 1 / 3, "b": [{"c": 0.5}], "d": -7.25},
        cost_usd=0.04,
        started_at=datetime.now(UTC),
        metadata={"title": "caf\u00e9"},
        modality=Modality.AUDIO,
    )
    run.steps[0].assets[0] = Asset(
        url="https://a.test/b",
        media_type="audio/wav",
        duration=10 / 3,
        audio={"word_timings": [{"word": "a", "start": 0, "end": 1 / 3}]},  # type: ignore[arg-type]
    )
    manifest = Manifest.from_run(run)
    read_again = parse_manifest(manifest.to_canonical_json())
    for each in (manifest, read_again):
        assert hashed(each.run, "1.5", HASHED["1.5"]) == hashed_bytes(run, "1.5")
        assert stored(each.__dict__).decode() == each.to_canonical_json()
    with pytest.raises(NotPlainError):
        hashed(make_run(params={"a": 1e-7}), "1.5", HASHED["1.5"])


def test_writing_computes_a_missing_hash_and_keeps_a_stale_one() -> None:
    """An empty hash is filled in; one that no longer matches is written as it is."""
    manifest = Manifest(run=make_run())
    assert json.loads(manifest.to_canonical_json())["canonical_hash"] == manifest.canonical_hash
    assert manifest.canonical_hash
    manifest.run.name = "changed"
    stale = json.loads(manifest.to_canonical_json())["canonical_hash"]
    assert stale == manifest.canonical_hash
    assert not manifest.verify_hash()
    assert not manifest.verify()


def test_what_is_written_reads_back_and_verifies() -> None:
    """A manifest survives writing and reading with its hash."""
    manifest = Manifest.from_run(make_run(params={"a": 1 / 3, "e\u0301": "e\u0301"}))
    manifest.manifest_uri = "https://a.test/m.json"
    again = parse_manifest(manifest.to_canonical_json())
    assert again.verify()
    assert again.manifest_uri == manifest.manifest_uri
    assert again.to_canonical_json() == manifest.to_canonical_json()


def test_schema_version_is_checked_on_assignment() -> None:
    """Only known versions can be set, on construction and later."""
    manifest = Manifest(run=make_run())
    manifest.schema_version = "1.3"
    assert manifest.compute_hash() != Manifest.from_run(manifest.run).canonical_hash
    with pytest.raises(ValidationError):
        manifest.schema_version = "1.7"  # type: ignore[assignment]
    with pytest.raises(ValidationError):
        Manifest(run=make_run(), schema_version="2.0")  # type: ignore[arg-type]


def test_schema_1_6_is_read_only() -> None:
    """A 1.6 manifest verifies and cannot be written in any form."""
    manifest = Manifest(run=make_run(), schema_version="1.6", manifest_uri="https://a.test/m")
    manifest.compute_hash()
    assert manifest.verify()
    for policy in (EmbedPolicy(), EmbedPolicy(embed_mode=EmbedMode.POINTER)):
        with pytest.raises(ManifestError, match=r"1\.6"):
            manifest.to_embed_json(policy)
    with pytest.raises(ManifestError, match=r"1\.6"):
        manifest.to_canonical_json()


def test_schema_1_6_refuses_a_url_that_is_none() -> None:
    """An unhashed asset with a broken URL cannot be identified: a typed error."""
    run = make_run()
    run.steps[0].assets[0].sha256 = None
    run.steps[0].assets[0].url = "https://[::1"
    with pytest.raises(ManifestError, match="malformed url"):
        Manifest(run=run, schema_version="1.6").compute_hash()


def test_verification_names_the_outputs_in_question() -> None:
    """Outputs without a hash and with broken facts are listed, inputs are not looked at."""
    run = make_run()
    without = Asset(url="u", media_type="image/png")
    broken = Asset(url="u", media_type="image/png", sha256=SHA256)
    broken.width = 0
    run.steps[0].inputs = [without]
    assert Manifest.from_run(run).verify()
    run.steps[0].assets += [without, broken]
    manifest = Manifest.from_run(run)
    report = manifest.verification_report()
    assert report == ManifestVerification(True, (without.asset_id,), (broken.asset_id,))
    assert not report.ok
    assert not manifest.verify()
    assert manifest.output_asset_ids_missing_sha256() == (without.asset_id,)
    assert manifest.output_asset_ids_with_invalid_metadata() == (broken.asset_id,)


def test_a_pointer_holds_hash_and_address_only() -> None:
    """A pointer needs a stored manifest and shows nothing of the run."""
    manifest = Manifest.from_run(make_run())
    policy = EmbedPolicy(embed_mode=EmbedMode.POINTER, include_params=False)
    with pytest.raises(ManifestError, match="manifest_uri"):
        manifest.to_embed_json(policy)
    manifest.manifest_uri = "https://a.test/m.json"
    policy.embed_mode = "pointer"  # type: ignore[assignment]
    assert manifest.to_embed_json(policy) == (
        f'{{"canonical_hash":"{manifest.canonical_hash}",'
        '"manifest_uri":"https://a.test/m.json","schema_version":"1.5"}'
    )


@pytest.mark.parametrize("mode", [EmbedMode.FULL, EmbedMode.NONE])
def test_a_full_embed_is_the_stored_text(mode: EmbedMode) -> None:
    """A policy that does not hide anything gives the manifest as it is stored."""
    manifest = Manifest.from_run(make_run())
    policy = EmbedPolicy(embed_mode=mode)
    assert manifest.to_embed_json(policy) == manifest.to_canonical_json()


def test_an_encrypted_prompt_needs_a_scheme() -> None:
    """A manifest that every reader would refuse is not written."""
    manifest = Manifest.from_run(make_run(prompt_visibility="encrypted"))
    with pytest.raises(ManifestError, match="encryption_scheme"):
        manifest.to_canonical_json()
    manifest.encryption_scheme = "age"
    assert parse_manifest(manifest.to_canonical_json()).verify()


def test_repr_shows_no_content() -> None:
    """The repr names hash and version, and no prompt or URL."""
    shown = repr(Manifest.from_run(make_run()))
    assert "1.5" in shown
    assert "lighthouse" not in shown
    assert "a.test" not in shown


class Scale(float, enum.Enum):
    HALF = 0.5


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "e\u0301"], "b": {"c": ()}},
        {"id": uuid.uuid4(), "at": datetime.now(UTC), "m": Modality.IMAGE, "s": Scale.HALF},
        ["text", None],
        2**70,
    ],
    ids=["json", "python", "list", "long integer"],
)
def test_check_json_accepts_what_a_manifest_can_hold(value: object) -> None:
    """Everything that hashes passes the check."""
    check_json(value, where="params")
    assert Manifest.from_run(make_run(params={"v": value})).verify_hash()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0, {"b": b"x"}]}, r"params\.a\[1\]\.b: .*bytes"),
        ({"a": {1, 2}}, r"params\.a: .*set"),
        ({"a": {1: 2}}, r"params\.a: a key is of type int"),
        ({"a": "\ud800"}, r"params\.a: .*surrogate"),
        ({"\ud800": 1}, r"a key of params: .*surrogate"),
        ({"a": float("nan")}, r"params\.a: NaN"),
        ({"a": float("-inf")}, r"params\.a: NaN"),
        ({"a": 10**5000}, r"params\.a: .*digits"),
        ({"a": datetime(2025, 1, 1)}, r"params\.a: .*time zone"),  # noqa: DTZ001
        ({"k" * 99: object()}, r"params\.k{40}: .*object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_check_json_names_the_path_of_what_it_refuses(value: object, message: str) -> None:
    """Refusals say where, what and how to fix it, before anything is paid."""
    with pytest.raises(ManifestError, match=message):
        check_json(value, where="params")


def test_check_json_counts_depth_as_hashing_does() -> None:
    """What passes the check can be hashed, and the first level too many is refused by both."""

    def params(levels: int) -> dict[str, Any]:
        value: object = 1
        for _ in range(levels):
            value = [value]
        return {"k": value}

    check_json(params(95), where="params")
    assert Manifest.from_run(make_run(params=params(95))).verify()
    with pytest.raises(ManifestError, match=r"params\.k(\[0\])+: nested too deep"):
        check_json(params(96), where="params")
    with pytest.raises(ManifestError, match="nested deeper"):
        Manifest.from_run(make_run(params=params(96)))
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ManifestError, match="nested too deep"):
        check_json(endless, where="params")


def test_check_json_keeps_values_out_of_its_message() -> None:
    """A refused value may be a private prompt: only its path is named."""
    with pytest.raises(ManifestError) as refusal:
        check_json(["a secret lighthouse \ud800"], where="prompt")
    assert "lighthouse" not in str(refusal.value)
