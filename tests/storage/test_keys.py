import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.storage.keys import (
    KeyStrategy,
    Layout,
    Placement,
    asset_key,
    index_key,
    join_key,
    manifest_key,
    url_extension,
)


@pytest.fixture
def recorded(vectors: Path) -> dict[str, Any]:
    return json.loads((vectors / "genblaze" / "storage_keys.json").read_text())


def _runs(recorded: dict[str, Any]) -> list[tuple[dict[str, Any], KeyStrategy, datetime]]:
    return [
        (run, KeyStrategy(run["key_strategy"]), datetime.fromisoformat(run["created_at"]))
        for run in recorded["runs"]
    ]


def test_manifest_keys_are_genblazes(recorded: dict[str, Any]) -> None:
    """Every recorded manifest key is reproduced, with each strategy, prefix and tenant."""
    for run, strategy, created_at in _runs(recorded):
        key = manifest_key(
            run["prefix"],
            strategy,
            run_id=run["run_id"],
            tenant_id=run["tenant_id"],
            created_at=created_at,
        )
        assert key == run["manifest_key"]


def test_asset_keys_are_genblazes(recorded: dict[str, Any]) -> None:
    """Every recorded asset key is reproduced from the served URL and its content type."""
    served = list(recorded["served"].items())
    for run, strategy, created_at in _runs(recorded):
        for (url, facts), asset in zip(served, run["assets"], strict=True):
            key = asset_key(
                run["prefix"],
                strategy,
                placement=Placement(run["run_id"], asset["asset_id"], run["tenant_id"], created_at),
                sha256=facts["body_sha256"],
                extension=url_extension(url, facts["content_type"]),
            )
            assert asset["url"] == f"https://store.example.test/bucket/{key}"


def test_cache_control_is_genblazes(recorded: dict[str, Any]) -> None:
    """Content addresses are immutable and public, hierarchical objects private for an hour."""
    for run, strategy, _ in _runs(recorded):
        sent = {
            operation["extra_args"]["CacheControl"]
            for operation in run["operations"]
            if operation["op"] == "put"
        }
        assert sent == {strategy.cache_control}


def test_index_keys_are_genblazes(recorded: dict[str, Any]) -> None:
    """The entry of a tenant is percent-escaped completely; the flat copy has no tenant."""
    entry = recorded["put_asset_index"]
    tenant = entry["tenant_id"].strip()
    keys = {index_key("genblaze", entry["asset_id"], t) for t in (tenant, None)}
    assert keys == set(entry["index_bodies"])


def test_media_outside_a_run_has_no_date_and_run() -> None:
    """A standalone asset of the hierarchical layout lies below `runs/<tenant>/assets`."""
    placement = Placement(None, "a1", "acme")
    key = asset_key(
        "p", KeyStrategy.HIERARCHICAL, placement=placement, sha256="0" * 64, extension=".png"
    )
    assert key == "p/runs/acme/assets/a1.png"


@pytest.mark.parametrize(
    ("prefix", "parts", "key"),
    [
        ("", ["runs", "x"], "runs/x"),
        ("runs", ["runs", "x"], "runs/x"),
        ("runs/runs", ["runs", "x"], "runs/runs/x"),
        ("/a//b/", ["c/", "/d"], "a/b/c/d"),
        ("media/assets", ["assets", "ab"], "media/assets/ab"),
        (" a ", [" b"], " a / b"),
        ("a", ["..", "%2F"], "a/../%2F"),
    ],
)
def test_joining_drops_empty_segments_and_the_seam(prefix: str, parts: list[str], key: str) -> None:
    """Slashes never double, and only a segment repeated at the seam is written once."""
    assert join_key(prefix, *parts) == key


def test_the_date_is_that_of_the_runs_own_zone() -> None:
    """A run created after midnight in its own zone lies in the new day, whatever UTC says."""
    created_at = datetime.fromisoformat("2026-01-02T00:30:00+09:00")
    key = manifest_key("", KeyStrategy.HIERARCHICAL, run_id="r", created_at=created_at)
    assert key == "runs/2026-01-02/r/manifest.json"


@pytest.mark.parametrize(
    ("url", "content_type", "extension"),
    [
        ("https://h.test/a.tar.gz?x=.png", "image/png", ".gz"),
        ("https://h.test/a%2Epng", None, ""),
        ("https://h.test/a.JPG", None, ".JPG"),
        ("https://h.test/a", "video/mp4", ".mp4"),
        ("https://h.test/a", "image/png; charset=binary", ""),
        ("https://h.test/a.b/c", None, ""),
    ],
)
def test_extensions_come_from_the_path_then_the_type(
    url: str, content_type: str | None, extension: str
) -> None:
    """The URL's last suffix wins and keeps its case; a type with parameters gives none."""
    assert url_extension(url, content_type) == extension


@given(
    prefix=st.text("ab/runsmet", max_size=12),
    strategy=st.sampled_from(KeyStrategy),
    tenant=st.none() | st.text("ab/", max_size=4),
)
def test_relative_keys_lead_back_to_the_whole_key(
    prefix: str, strategy: KeyStrategy, tenant: str | None
) -> None:
    """Prefix and relative key together are always genblaze's key."""
    created_at = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    whole = manifest_key(prefix, strategy, run_id="r", tenant_id=tenant, created_at=created_at)
    layout = Layout(join_key("", prefix), strategy)
    relative = layout.manifest_key("r", tenant_id=tenant, created_at=created_at)
    assert "/".join(filter(None, (layout.prefix, relative))) == whole
    assert layout.is_manifest_key(relative)
    folder = layout.manifest_folder()
    assert not folder or relative.startswith(f"{folder}/")
