import json
import os
from pathlib import Path

import pytest

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES

# Vectors whose outcome is decided by the file alone: the status `verify` must end with.
FROM_THE_FUTURE = {"032_version_1_7.json", "033_version_number_type.json"}


def test_every_vector_ends_with_the_status_its_outcome_asks_for(vectors: Path, invoke) -> None:
    """Verified is 0; tampered, incomplete and unreadable are 1; a newer schema is 3."""
    root = vectors / "genblaze"
    cases = json.loads((root / "index.json").read_text())["manifests"]
    assert len(cases) > 50
    for case in cases:
        expected = 0 if case["expect"].get("verify") else 1
        if Path(case["file"]).name in FROM_THE_FUTURE:
            expected = 3
        ended = invoke("verify", "--json", root / case["file"])
        assert ended.status == expected, (case["file"], ended.stdout)
        if case["expect"]["parse"] == "ok" and "verify_raises" not in case["expect"]:
            hash_check = "pass" if case["expect"]["verify_hash"] else "fail"
            assert ended.checks["canonical_hash"] == hash_check, case["file"]
            report = case["expect"]["report"]
            assert (ended.checks["assets_have_sha256"] == "fail") == bool(
                report["unverified_sha256_ids"]
            )
            assert (ended.checks["assets_metadata_in_spec"] == "fail") == bool(
                report["invalid_metadata_ids"]
            )


def test_a_manifest_alone_is_verified_without_a_word_about_bytes(vectors: Path, invoke) -> None:
    """Nothing on disk but the manifest: what is said is about the manifest."""
    ended = invoke("verify", vectors / "genblaze" / "manifests" / "002_image.json")
    assert ended.status == 0
    assert "The manifest is unchanged" in ended.stdout
    assert "No media bytes were looked at" in ended.stdout
    assert "bytes agree" not in ended.stdout


def test_a_tampered_manifest_fails(vectors: Path, launch) -> None:
    """A changed prompt is found, and the status says so."""
    ended = launch("verify", vectors / "genblaze" / "manifests" / "022_tampered_prompt.json")
    assert ended.status == 1
    assert "fail    canonical_hash" in ended.stdout


def test_hash_only_ignores_what_genblaze_ignores(vectors: Path, invoke) -> None:
    """A missing sha256 is no business of --hash-only."""
    path = vectors / "genblaze" / "manifests" / "026_missing_sha.json"
    assert invoke("verify", path).status == 1
    assert invoke("verify", "--hash-only", path).status == 0


def _deep(levels: int) -> bytes:
    return b'{"run": ' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(b"", 1, id="empty"),
        pytest.param(b"not json at all", 1, id="not-json"),
        pytest.param(b"\xff\xfe{}", 1, id="not-utf-8"),
        pytest.param(b"[]", 1, id="array"),
        pytest.param(b"{}", 1, id="no-run"),
        pytest.param(_deep(100_000), 1, id="too-deep"),
        pytest.param(b" " * (MAX_MANIFEST_BYTES + 1), 3, id="oversized"),
        pytest.param(b'{"schema_version": "9.0", "run": {}}', 3, id="from-the-future"),
    ],
)
def test_broken_manifests_end_with_a_typed_error(
    content: bytes, status: int, tmp_path: Path, invoke
) -> None:
    """Whatever is in a .json file, the end is a status and a named error on both channels."""
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    ended = invoke("verify", "--json", path)
    assert ended.status == status, ended
    assert ended.document["error"]["type"].endswith("Error")
    assert ended.document["error"]["message"]
    plain = invoke("verify", path)
    assert plain.status == status
    assert plain.stdout == ""
    assert str(path) in plain.stderr


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_manifest_fails(kept: float, vectors: Path, tmp_path: Path, invoke) -> None:
    """A manifest that was cut off anywhere is not verified."""
    data = (vectors / "genblaze" / "manifests" / "002_image.json").read_bytes()
    path = tmp_path / "manifest.json"
    path.write_bytes(data[: int(len(data) * kept)])
    ended = invoke("verify", path)
    assert ended.status == 1
    assert ended.stdout == ""


def test_a_missing_file_is_an_error_of_the_surroundings(tmp_path: Path, launch) -> None:
    """No such file: status 4, one line on stderr."""
    ended = launch("verify", tmp_path / "gone.json")
    assert (ended.status, ended.stdout) == (4, "")
    assert ended.stderr == f"error: {tmp_path / 'gone.json'}: no such file\n"


def test_a_missing_file_by_url_is_an_error_of_the_surroundings(tmp_path: Path, invoke) -> None:
    """file:// URLs name files, too."""
    ended = invoke("verify", (tmp_path / "gone.json").as_uri())
    assert ended.status == 4
    assert "no such file" in ended.stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only")
def test_an_unreadable_file_is_an_error_of_the_surroundings(invoke) -> None:
    """A file that is there and gives no bytes: status 4, not a verdict."""
    ended = invoke("verify", "/proc/self/mem")
    assert ended.status == 4
    assert ended.stderr == "error: /proc/self/mem: Input/output error\n"


def test_a_pipe_is_refused(tmp_path: Path, invoke) -> None:
    """Something that is no file would block forever."""
    os.mkfifo(tmp_path / "pipe.json")
    ended = invoke("verify", tmp_path / "pipe.json")
    assert ended.status == 4
    assert "not a regular file" in ended.stderr


def test_other_urls_are_a_usage_error(invoke) -> None:
    """https:// is not read, and nothing is downloaded to find out."""
    ended = invoke("verify", "--json", "https://cdn.example.com/a.png")
    assert ended.status == 2
    assert ended.document["error"]["type"] == "UsageError"
    assert "s3://" in ended.document["error"]["message"]


def test_a_manifest_in_a_store_checks_the_outputs_beside_it(shelf, tmp_path: Path, invoke) -> None:
    """The stored bytes are read, and a changed one fails."""
    stored = shelf.add("p")
    path = tmp_path / "shelf" / stored.ref.manifest_key
    ended = invoke("verify", "--json", path)
    assert ended.status == 0, ended.stdout
    assert ended.report["kind"] == "manifest"
    assert ended.checks["bytes_match"] == "pass"
    shelf.overwrite(stored.key, b"other")
    assert invoke("verify", "--json", path).checks["bytes_match"] == "fail"
    shelf.delete(stored.key)
    gone = invoke("verify", "--json", path)
    assert gone.status == 1
    assert "1 are missing" in gone.report["checks"][-1]["detail"]


def test_a_copied_store_is_checked_where_it_is_now(shelf, tmp_path: Path, invoke) -> None:
    """URLs of the old place lead nowhere; the content address still does."""
    stored = shelf.add("p")
    moved = (tmp_path / "shelf").rename(tmp_path / "moved")
    ended = invoke("verify", "--json", moved / stored.ref.manifest_key)
    assert ended.checks["bytes_match"] == "pass"
    (moved / stored.key).write_bytes(b"other")
    assert invoke("verify", moved / stored.ref.manifest_key).status == 1


def test_a_copied_manifest_needs_the_store_to_say_something_about_bytes(
    shelf, tmp_path: Path, invoke
) -> None:
    """A manifest elsewhere does not make anybody read the files its URLs name."""
    stored = shelf.add("p")
    copy = tmp_path / "copy.json"
    copy.write_text(stored.manifest.to_canonical_json())
    assert invoke("verify", "--json", copy).checks["bytes_match"] == "skip"
    named = invoke("verify", "--json", "--store", shelf.store.url, copy)
    assert named.checks["bytes_match"] == "pass"
    shelf.overwrite(stored.key, b"other")
    assert invoke("verify", copy).status == 0
    assert invoke("verify", "--store", shelf.store.url, copy).status == 1


def test_outputs_kept_elsewhere_are_unknown_when_asked_for(shelf, vectors: Path, invoke) -> None:
    """--store asks about bytes; outputs that are not in that store leave no answer."""
    path = vectors / "genblaze" / "manifests" / "002_image.json"
    ended = invoke("verify", "--json", "--store", shelf.store.url, path)
    assert ended.status == 3
    assert ended.checks["bytes_match"] == "unknown"


def test_a_store_that_does_not_exist_is_an_error(vectors: Path, tmp_path: Path, invoke) -> None:
    """A wrong --store is reported, never skipped."""
    path = vectors / "genblaze" / "manifests" / "002_image.json"
    ended = invoke("verify", "--store", tmp_path / "nowhere", path)
    assert ended.status == 4
    assert "no such directory" in ended.stderr
