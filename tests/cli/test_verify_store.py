from pathlib import Path

import pytest

from genblaze_dagster.storage.keys import KeyStrategy
from tests.support.s3 import S3Server, free_port


def test_every_reference_of_a_directory_is_verified_with_its_bytes(shelf, launch) -> None:
    """A store is verified through its references, and every byte is read."""
    size = sum(len(shelf.add(f"p{i}").data) for i in range(3))
    ended = launch("verify", "--json", shelf.store.url)
    assert ended.status == 0
    assert ended.stderr == ""
    assert ended.document["verdict"] == ended.report["verdict"] == "verified-unsigned"
    assert ended.report["kind"] == "store"
    details = {
        check["name"]: (check["status"], check["detail"]) for check in ended.report["checks"]
    }
    assert details == {
        "references": ("pass", "3 reference(s)"),
        "canonical_hash": ("pass", "3 manifest(s)"),
        "bytes_match": ("pass", f"3 file(s), {size:,} bytes read"),
    }


def test_a_directory_may_be_named_by_its_path(shelf, tmp_path: Path, invoke) -> None:
    """A store on disk needs no URL."""
    shelf.add("p")
    result = invoke("verify", tmp_path / "shelf")
    assert result.status == 0
    assert "verified-unsigned" in result.stdout
    assert "Manifest and bytes agree" in result.stdout


def test_a_single_changed_byte_in_a_store_is_found(shelf, invoke) -> None:
    """Overwritten media fails, and the finding names partition and object."""
    shelf.add("fine")
    bad = shelf.add("bad")
    shelf.overwrite(bad.key, bad.data[:-1] + b"!")
    ended = invoke("verify", "--json", shelf.store.url)
    assert ended.status == 1
    assert ended.checks["bytes_match"] == "fail"
    (finding,) = ended.report["findings"]
    assert finding["partition_key"] == "bad"
    assert finding["problem"] == "bytes differ"
    assert finding["subject"] == bad.key
    shown = invoke("verify", shelf.store.url)
    assert shown.status == 1
    assert f"still [bad] bytes differ: {bad.key}" in shown.stdout


def test_missing_bytes_and_tampered_manifests_are_separate_findings(shelf, invoke) -> None:
    """What is gone and what was changed are told apart."""
    gone, changed = shelf.add("gone"), shelf.add("changed")
    shelf.delete(gone.key)
    text = changed.manifest.to_canonical_json().replace("a lighthouse", "a lightmouse")
    shelf.overwrite(changed.ref.manifest_key, text.encode())
    ended = invoke("verify", "--json", shelf.store.url)
    assert ended.status == 1
    found = {(f["partition_key"], f["problem"]) for f in ended.report["findings"]}
    assert found == {("gone", "bytes missing"), ("changed", "manifest invalid")}
    assert ended.checks["canonical_hash"] == "fail"


def test_an_unreadable_reference_fails_the_store(shelf, invoke) -> None:
    """A reference that is not JSON is a finding, not one reference fewer, and ends nothing."""
    shelf.add("p")
    shelf.overwrite("refs/still/broken.json", b"{")
    result = invoke("verify", shelf.store.url)
    assert result.status == 1
    assert "reference damaged: refs/still/broken.json" in result.stdout
    assert "pass    bytes_match: bytes verified: 1 file(s)" in result.stdout


@pytest.mark.parametrize("option", ["--hash-only", "--fetch"])
def test_questions_that_make_no_sense_for_a_store_are_refused(option: str, shelf, invoke) -> None:
    """A store is checked with the bytes it holds, all of them and no others."""
    shelf.add("p")
    result = invoke("verify", option, shelf.store.url)
    assert result.status == 2
    assert "a store is checked with the bytes it holds" in result.stderr


class TestS3:
    """Targets on a real S3 server."""

    def test_a_prefix_is_a_store(self, s3_server: S3Server, s3_bucket: str, on_s3, launch) -> None:
        """A prefix of a bucket is verified like a directory."""
        on_s3(s3_bucket).add("p")
        url = f"s3://{s3_bucket}/media"
        ended = launch("verify", "--json", url, env=s3_server.environment())
        assert ended.status == 0, ended.stderr
        assert ended.report["kind"] == "store"

    def test_one_object_finds_its_run(self, s3_server, s3_bucket: str, on_s3, invoke) -> None:
        """Stored media is compared with the manifest of the run that made it."""
        stored = on_s3(s3_bucket).add("p")
        url = f"s3://{s3_bucket}/media/{stored.key}"
        ended = invoke("verify", "--json", url, env=s3_server.environment())
        assert ended.status == 0, ended.stderr
        assert ended.report["sha256"] == stored.ref.media[0].sha256
        assert ended.report["manifest"]["run_id"] == stored.ref.run_id
        assert ended.checks["bytes_match"] == "pass"

    def test_a_stored_manifest_checks_the_stored_outputs(
        self, s3_server, s3_bucket: str, on_s3, invoke
    ) -> None:
        """The outputs a manifest names are read from the store it lies in."""
        shelf = on_s3(s3_bucket)
        stored = shelf.add("p")
        url = f"s3://{s3_bucket}/media/{stored.ref.manifest_key}"
        arguments = ("verify", "--json", "--endpoint-url", s3_server.url, url)
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        ended = invoke(*arguments, env=keys)
        assert ended.status == 0, ended.stderr
        assert ended.checks["bytes_match"] == "pass"
        shelf.overwrite(stored.key, b"other")
        ended = invoke(*arguments, env=keys)
        assert ended.status == 1
        assert ended.checks["bytes_match"] == "fail"

    def test_a_sidecar_object_is_read(
        self, s3_server, s3_bucket: str, on_s3, with_sidecar, invoke
    ) -> None:
        """An object outside any store layout is verified through the sidecar beside it."""
        shelf = on_s3(s3_bucket)
        path = with_sidecar(b"replaced")
        shelf.overwrite("loose/beach.png", path.read_bytes())
        sidecar = path.with_name("beach.png.genblaze.json").read_bytes()
        shelf.overwrite("loose/beach.png.genblaze.json", sidecar)
        url = f"s3://{s3_bucket}/media/loose/beach.png"
        ended = invoke("verify", "--json", url, env=s3_server.environment())
        assert ended.status == 1
        assert ended.report["manifest"]["source"] == "beach.png.genblaze.json"
        assert ended.checks["bytes_match"] == "fail"

    def test_a_missing_object_is_a_storage_error(
        self, s3_server: S3Server, s3_bucket: str, invoke
    ) -> None:
        """Neither object nor prefix: status 4, and the name in the message."""
        url = f"s3://{s3_bucket}/nothing/here.png"
        ended = invoke("verify", "--json", url, env=s3_server.environment())
        assert ended.status == 4
        assert ended.document["error"]["type"] == "NotFoundError"
        assert "nothing/here.png" in ended.document["error"]["message"]
        assert ended.document["verdict"] == "error"

    def test_a_missing_bucket_is_a_storage_error(self, s3_server: S3Server, invoke) -> None:
        """The message says that the bucket is what is missing."""
        ended = invoke("verify", "s3://no-such-bucket/media", env=s3_server.environment())
        assert ended.status == 4
        assert ended.stdout == ""
        assert "bucket does not exist" in ended.stderr

    def test_a_wrong_endpoint_is_a_storage_error(self, s3_bucket: str, invoke) -> None:
        """Nobody listens there: status 4 within seconds, with the remedy."""
        endpoint = f"http://127.0.0.1:{free_port()}"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "canary-secret-value"}
        ended = invoke("verify", "--endpoint-url", endpoint, f"s3://{s3_bucket}/x", env=keys)
        assert ended.status == 4
        assert "check the endpoint" in ended.stderr
        assert "canary" not in ended.stderr

    def test_a_hierarchical_object_is_checked_against_the_manifest_beside_it(
        self, s3_server, s3_bucket: str, on_s3, invoke
    ) -> None:
        """In the hierarchical layout the manifest is found by the object's own key."""
        shelf = on_s3(s3_bucket, strategy=KeyStrategy.HIERARCHICAL)
        stored = shelf.add("p")
        assert stored.key.startswith("runs/")
        shelf.overwrite(stored.key, b"other")
        url = f"s3://{s3_bucket}/media/{stored.key}"
        ended = invoke("verify", "--json", url, env=s3_server.environment())
        assert ended.status == 1, ended.stderr
        assert ended.report["manifest"]["run_id"] == stored.ref.run_id


def test_b2_without_keys_names_the_variables(invoke) -> None:
    """Missing credentials are a configuration error that says what to set."""
    ended = invoke("verify", "b2://bucket/media")
    assert ended.status == 4
    assert "B2_KEY_ID" in ended.stderr


def test_the_store_is_only_read(shelf, tmp_path: Path, invoke) -> None:
    """Verifying leaves every object as it was and adds none."""
    shelf.add("p")

    def everything() -> dict[str, tuple[int, bytes]]:
        files = (p for p in (tmp_path / "shelf").rglob("*") if p.is_file())
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}

    before = everything()
    assert invoke("verify", shelf.store.url).status == 0
    assert everything() == before
