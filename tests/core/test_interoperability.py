"""Our manifests as others see them: genblaze-core, and the published JSON Schemas."""

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import (
    Asset,
    AudioMetadata,
    Run,
    Step,
    Track,
    VideoMetadata,
    WordTiming,
)
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError
from tests.core.strategies import runs

SCHEMAS = Path(__file__).resolve().parent.parent / "data" / "schemas" / "manifest" / "v1"

# genblaze-core runs in a process of its own: only what it prints is compared.
READER = """
import json, sys
from genblaze_core.models.manifest import parse_manifest
for line in sys.stdin:
    manifest = parse_manifest(json.loads(line))
    print(json.dumps([manifest.verify_hash(), manifest.compute_hash(),
                      manifest.to_canonical_json()]))
"""
STRIPPER = """
import json, sys
from genblaze_core.models.manifest import strip_asset_url_credentials
for line in sys.stdin:
    try:
        print(json.dumps(strip_asset_url_credentials(json.loads(line))))
    except ValueError:
        print("null")
"""


def genblaze(program: str, lines: list[str]) -> list[Any]:
    finished = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=300,
        env={"PYTHONUTF8": "1", "PATH": ""},
    )
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(answers) == len(lines)
    return answers


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schemas = [json.loads(path.read_bytes()) for path in SCHEMAS.glob("*.schema.json")]
    registry = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas
    )
    (manifest,) = (schema for schema in schemas if schema["title"] == "Manifest")
    return Draft202012Validator(
        manifest, registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def realistic_run() -> Run:
    started = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    image = Asset(
        url="https://cdn.test/a.png",
        media_type="image/png",
        sha256="ab" * 32,
        size_bytes=10,
        width=1024,
        height=768,
        metadata={"index": 0},
    )
    video = Asset(
        url="https://cdn.test/b.mp4",
        media_type="video/mp4",
        sha256="cd" * 32,
        size_bytes=11,
        duration=10 / 3,
        video=VideoMetadata(frame_rate=24000 / 1001, codec="h264", has_audio=True),
        audio=AudioMetadata(
            sample_rate=48000,
            channels=2,
            word_timings=[WordTiming(word="caf\u00e9", start=0, end=1 / 3, confidence=0.9)],
        ),
        tracks=[Track(kind="video", codec="h264")],
    )
    steps = [
        Step(
            model="image-1",
            provider="acme",
            prompt="a lighthouse",
            seed=2**63,
            params={"guidance": 7.0, "styles": ["film"], "tiny": 1e-5, "e\u0301": "e\u0301"},
            status="succeeded",  # type: ignore[arg-type]
            assets=[image],
            cost_usd=0.04,
            started_at=started,
            completed_at=started + timedelta(seconds=1),
            step_index=0,
            provider_payload={"request_id": "r"},
        ),
        Step(
            model="video-1",
            provider="acme",
            modality="video",  # type: ignore[arg-type]
            inputs=[image],
            assets=[video],
        ),
    ]
    return Run(name="demo", steps=steps, started_at=started, metadata={"a": [1, {"b": None}]})


def test_genblaze_reads_verifies_and_rewrites_our_manifests() -> None:
    """genblaze-core verifies what we write, computes the same hash and writes the same text."""
    written = [Manifest.from_run(realistic_run()).to_canonical_json()]

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(runs(), st.sampled_from(["1.0", "1.3", "1.4", "1.5"]))
    def collect(run: Run, version: str) -> None:
        manifest = Manifest(run=run, schema_version=version)  # type: ignore[arg-type]
        written.append(manifest.to_canonical_json())

    collect()
    assert len(written) > 50
    for text, (verified, computed, rewritten) in zip(
        written, genblaze(READER, written), strict=True
    ):
        assert verified is True
        assert computed == json.loads(text)["canonical_hash"]
        assert rewritten == text


def test_urls_are_stripped_as_genblaze_strips_them() -> None:
    """On random URLs both give the same text, and refuse the same ones."""
    rng = random.Random(5)  # noqa: S311
    schemes = ["https://", "HTTP://", "//", "", "file:///", "s3://"]
    hosts = [
        "h.test",
        "User:Pw@H.Test",
        "[2001:DB8::1]",
        "h.test:443",
        "h:99999",
        "\u00fc.test",
        "",
    ]
    names = ["a", "b", "se", "sig", "sv", "Expires", "X-Amz-Date", "Signature", "AWSAccessKeyId"]
    names += ["Key-Pair-Id", "%41", "a%20b", "+"]
    urls: list[str] = []
    for _ in range(400):
        pairs = [
            rng.choice(names) + rng.choice(["", "=", "=1", "=%2F+ ", "=\u00fc", "=a=b", "=%ff"])
            for _ in range(rng.randrange(6))
        ]
        path = rng.choice(["", "/", "/a%20b/C", "/a;b", "/\u00fc"])
        query = rng.choice(["", "?", "?", "?"]) + rng.choice(["&", "&&", ";"]).join(pairs)
        url = rng.choice(schemes) + rng.choice(hosts) + path + query + rng.choice(["", "#f"])
        urls.append(url)
    expected = genblaze(STRIPPER, [json.dumps(url) for url in urls])
    for url, theirs in zip(urls, expected, strict=True):
        if theirs is None:
            with pytest.raises(ManifestError):
                strip_credentials(url)
        else:
            assert strip_credentials(url) == theirs, url


def test_our_manifests_satisfy_the_published_schema(validator: Draft202012Validator) -> None:
    """What we write for 1.5 is valid by the closed JSON Schemas, formats included."""
    manifest = Manifest.from_run(realistic_run())
    manifest.manifest_uri = "https://cdn.test/m.json"
    document = json.loads(manifest.to_canonical_json())
    assert [error.message for error in validator.iter_errors(document)] == []
    empty = json.loads(Manifest.from_run(Run()).to_canonical_json())
    assert [error.message for error in validator.iter_errors(empty)] == []


def test_the_published_schema_can_fail(validator: Draft202012Validator) -> None:
    """The schemas are applied in depth: a wrong asset inside a step is found."""
    document = json.loads(Manifest.from_run(realistic_run()).to_canonical_json())
    document["run"]["steps"][0]["assets"][0]["sha256"] = "AB" * 32
    document["run"]["steps"][1]["surprise"] = 1
    document["run"]["run_id"] = "not a uuid"
    paths = {tuple(error.absolute_path) for error in validator.iter_errors(document)}
    assert ("run", "run_id") in paths
    assert ("run", "steps", 0, "assets", 0, "sha256") in paths
    assert ("run", "steps", 1) in paths
