import json
from pathlib import Path

import pytest

from genblaze_dagster.errors import ConfigError, StorageError
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.storage.urls import PresignedURL


def _store(bucket: str = "my-bucket", **settings: str | None) -> MediaStore:
    return MediaStore(
        f"s3://{bucket}", access_key_id="AKIATESTTESTTEST0000", secret_access_key="s", **settings
    )


def test_durable_urls_are_genblazes(vectors: Path) -> None:
    """Every recorded durable URL is reproduced and leads back to its key."""
    for case in json.loads((vectors / "genblaze" / "storage_keys.json").read_text())[
        "durable_urls"
    ]:
        store = _store(
            endpoint_url=case["endpoint_url"],
            region=case["region"],
            public_url_base=case["public_url_base"],
        )
        assert store.durable_url(case["key"]) == case["durable_url"]
        assert store.key_from_url(case["durable_url"]) == case["key"]


def test_urls_of_others_have_no_key() -> None:
    """Another host, bucket, a similar bucket name, a climbing path and the bare bucket are None."""
    store = _store(region="us-east-1")
    for url in (
        "https://s3.amazonaws.com/other-bucket/k",
        "https://s3.amazonaws.com/my-bucket-2/k",
        "https://example.test/my-bucket/k",
        "https://s3.amazonaws.com/my-bucket/../my-bucket/k",
        "https://s3.amazonaws.com/my-bucket/%2E%2E/k",
        "https://s3.amazonaws.com/my-bucket/",
        "file:///my-bucket/k",
        "not a url",
    ):
        assert store.key_from_url(url) is None, url


def test_presigned_urls_of_the_same_bucket_have_a_key() -> None:
    """Only host and bucket are compared, so a query does not matter."""
    store = _store(region="us-east-1")
    assert store.key_from_url("https://s3.amazonaws.com/my-bucket/a/b?X-Amz-Date=1") == "a/b"


def test_a_prefix_is_part_of_the_url_and_not_of_the_key() -> None:
    """Keys are relative: what lies outside the prefix has none."""
    store = MediaStore(
        "s3://my-bucket/some/prefix/", access_key_id="a", secret_access_key="b", region="us-east-1"
    )
    assert store.prefix == "some/prefix"
    assert store.durable_url("x") == "https://s3.amazonaws.com/my-bucket/some/prefix/x"
    assert store.key_from_url(store.durable_url("x")) == "x"
    assert store.key_from_url("https://s3.amazonaws.com/my-bucket/other/x") is None


def test_any_b2_region_host_is_this_bucket() -> None:
    """A B2 bucket name is unique over all regions."""
    store = _store(endpoint_url="https://s3.us-west-004.backblazeb2.com")
    url = "https://s3.eu-central-003.backblazeb2.com/my-bucket/k"
    assert store.key_from_url(url) == "k"
    assert _store(region="us-east-1").key_from_url(url) is None


def test_presigning_is_sigv4_and_hides_itself() -> None:
    """The URL is SigV4 whatever the endpoint; repr and str hide signature and key."""
    for endpoint in (None, "http://localhost:9000", "https://s3.us-west-004.backblazeb2.com"):
        signed = _store(endpoint_url=endpoint).presigned_get("a b/c", expires_in=60)
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in signed.url
        assert "X-Amz-Expires=60" in signed.url
        assert "/my-bucket/a%20b/c?" in signed.url
        for shown in (repr(signed), str(signed), f"{signed}"):
            assert "AKIATESTTESTTEST0000" not in shown
            assert signed.url.partition("X-Amz-Signature=")[2] not in shown
            assert "a%20b/c" in shown


def test_old_signature_forms_are_hidden_too() -> None:
    """SigV2 parameters and session tokens do not show either."""
    url = "https://h.test/k?AWSAccessKeyId=AKIA1&Signature=abc%3D&X-Amz-Security-Token=tok&e=1"
    shown = repr(PresignedURL(url, "GET", 1))
    assert not any(secret in shown for secret in ("AKIA1", "abc%3D", "tok"))
    assert "e=1" in shown


def test_a_presigned_put_names_its_content_type() -> None:
    """The client learns which header to send."""
    signed = _store().presigned_put("k", media_type="image/png")
    assert signed.method == "PUT"
    assert signed.headers == (("Content-Type", "image/png"),)


@pytest.mark.parametrize("seconds", [0, -1, 604801])
def test_an_expiry_outside_a_week_is_refused(seconds: int) -> None:
    """SigV4 ends at seven days; the message names the limit."""
    with pytest.raises(ConfigError, match="604800"):
        _store().presigned_get("k", seconds)


@pytest.mark.parametrize("url", ["memory://m", "file:///tmp/somewhere"])
def test_local_stores_have_no_presigned_urls(url: str) -> None:
    """A typed error and not a URL that nobody can use."""
    with pytest.raises(StorageError, match="no presigned URLs"):
        MediaStore(url).presigned_get("k")


def test_file_urls_quote_and_lead_back(tmp_path: Path) -> None:
    """Directories with spaces, percent signs and hashes survive the round trip."""
    directory = tmp_path / "a b%20#c"
    store = MediaStore(directory.as_uri())
    url = store.durable_url("x y/%41.png")
    assert url.startswith("file:///")
    assert store.key_from_url(url) == "x y/%41.png"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "a/../b", "./a", "a/.", "a\nb", "a\0b"])
def test_impossible_keys_are_refused(key: str) -> None:
    """Empty and relative segments and control characters never reach a store."""
    with pytest.raises(StorageError, match="object key"):
        MediaStore("memory://m").durable_url(key)
