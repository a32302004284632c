"""Every manifest of the interoperability vectors, byte for byte."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.document import hashed_bytes
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.core.provenance import asset_provenance_key
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError, SchemaError, UnsupportedSchemaVersionError

ERRORS = {
    "manifest_error": ManifestError,
    "unsupported_version": UnsupportedSchemaVersionError,
    "validation": SchemaError,
}


@pytest.fixture(scope="module")
def golden(vectors: Path) -> Path:
    return vectors / "genblaze"


@pytest.fixture(scope="module")
def cases(golden: Path) -> list[dict[str, Any]]:
    cases = json.loads((golden / "index.json").read_bytes())["manifests"]
    assert len(cases) > 50
    return cases


def readable(cases: list[dict[str, Any]], *, without: str) -> list[dict[str, Any]]:
    return [c for c in cases if c["expect"]["parse"] == "ok" and without not in c["expect"]]


def read(golden: Path, case: dict[str, Any]) -> Manifest:
    return parse_manifest((golden / case["file"]).read_bytes())


def test_every_file_is_read_or_refused_as_expected(
    golden: Path, cases: list[dict[str, Any]]
) -> None:
    """A file parses, or fails with the error of its kind, as the original reader does."""
    refused = 0
    for case in cases:
        expect = case["expect"]
        if expect["parse"] == "error":
            refused += 1
            with pytest.raises(ERRORS[expect["error_kind"]]):
                read(golden, case)
            continue
        manifest = read(golden, case)
        assert manifest.schema_version == expect["schema_version"], case["file"]
        assert manifest.canonical_hash == expect["stored_canonical_hash"], case["file"]
    assert refused >= 6


def test_text_bytes_and_object_read_alike(golden: Path, cases: list[dict[str, Any]]) -> None:
    """A manifest may be given as bytes, text or parsed JSON, and the object is left as it was."""
    for case in readable(cases, without="none"):
        data = (golden / case["file"]).read_bytes()
        document = json.loads(data)
        before = repr(document)
        assert repr(parse_manifest(document)) == repr(parse_manifest(data)), case["file"]
        assert repr(document) == before, case["file"]
        assert repr(parse_manifest(data.decode())) == repr(parse_manifest(bytearray(data)))


def test_the_hashed_text_is_the_same(golden: Path, cases: list[dict[str, Any]]) -> None:
    """The text under the hash equals the recorded one to the byte, in all schema versions."""
    for case in readable(cases, without="verify_raises"):
        manifest = read(golden, case)
        hashed = hashed_bytes(manifest.run, manifest.schema_version)
        assert hashed == (golden / "payload" / Path(case["file"]).name).read_bytes(), case["file"]
        assert manifest.compute_hash() == case["expect"]["computed_canonical_hash"], case["file"]


def test_verification_finds_the_same(golden: Path, cases: list[dict[str, Any]]) -> None:
    """Hash check, verdict and report agree with the recorded ones."""
    for case in readable(cases, without="verify_raises"):
        expect, manifest = case["expect"], read(golden, case)
        report = manifest.verification_report()
        assert manifest.verify_hash() is expect["verify_hash"], case["file"]
        assert manifest.verify() is expect["verify"], case["file"]
        assert {
            "hash_ok": report.hash_ok,
            "ok": report.ok,
            "unverified_sha256_ids": list(report.unverified_sha256_ids),
            "invalid_metadata_ids": list(report.invalid_metadata_ids),
        } == expect["report"], case["file"]


def test_what_is_written_again_is_the_same(golden: Path, cases: list[dict[str, Any]]) -> None:
    """Writing gives the file itself, or the recorded text where the file was not canonical."""
    for case in readable(cases, without="write_raises"):
        manifest, file = read(golden, case), golden / case["file"]
        written = manifest.to_canonical_json().encode()
        rewritten = golden / "canonical_out" / file.name
        expected = (rewritten if rewritten.exists() else file).read_bytes()
        assert written == expected, case["file"]
        digest = hashlib.sha256(written).hexdigest()
        assert digest == case["expect"]["canonical_json_sha256"], case["file"]


def test_what_cannot_be_verified_or_written_is_a_manifest_error(
    golden: Path, cases: list[dict[str, Any]]
) -> None:
    """Depth, lone surrogates, times without a zone and schema 1.6 end in a typed error."""
    raised = 0
    for case in readable(cases, without="none"):
        manifest = read(golden, case)
        if "verify_raises" in case["expect"]:
            for refuse in (manifest.verify, manifest.verify_hash, manifest.compute_hash):
                with pytest.raises(ManifestError):
                    refuse()
                raised += 1
        if "write_raises" in case["expect"]:
            with pytest.raises(ManifestError):
                manifest.to_canonical_json()
            raised += 1
    assert raised >= 12


def test_urls_lose_their_credentials_as_recorded(golden: Path) -> None:
    """The URL form of schema 1.6 matches the recorded one for every vendor's signature."""
    for case in json.loads((golden / "url_credential_stripping.json").read_bytes()):
        assert strip_credentials(case["url"]) == case["stripped"]


def test_provenance_keys_match(golden: Path) -> None:
    """The sort key of ingested assets is the recorded one."""
    for case in json.loads((golden / "asset_provenance_keys.json").read_bytes()):
        assert list(asset_provenance_key(Asset(**case["asset"]))) == case["key"]
