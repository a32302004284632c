"""Where a store is and with which credentials: arguments, S3 resource, environment."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.storage.credentials import AwsConfigCredentials, StaticCredentials
from genblaze_dagster.storage.location import S3Access
from genblaze_dagster.storage.options import StoreOptions
from genblaze_dagster.storage.store import MediaStore
from tests.support.s3 import S3Server

KEYS = {"access_key_id": "AKIAARGUMENT00000000", "secret_access_key": "argument-secret"}


def _access(store: MediaStore) -> S3Access:
    assert store.client.access is not None
    return store.client.access


def _static(store: MediaStore) -> StaticCredentials:
    credentials = _access(store).credentials
    assert isinstance(credentials, StaticCredentials)
    return credentials


def _resource(**settings: Any) -> Any:
    from dagster_aws.s3 import S3Resource

    return S3Resource(**settings)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must start with"),
        ("/data/store", "file:///absolute/path"),
        ("gs://bucket", "must start with"),
        ("memory://a[b]", "must start with"),
        ("s3://", "no bucket"),
        ("memory://", "no bucket"),
        ("s3://bucket/p?x=1", "query"),
        ("s3://bucket/p#x", "fragment"),
        ("file://host/dir", "absolute path"),
        ("file:relative", "absolute path"),
        ("b2://", "B2_BUCKET"),
    ],
)
def test_unusable_urls_are_refused_with_the_remedy(url: str, message: str) -> None:
    """The message says how it is written."""
    with pytest.raises(ConfigError, match=message):
        MediaStore(url, **KEYS)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    """Neither store URL nor endpoint may hold a secret, and the message does not quote it."""
    for arguments in (
        {"url": "s3://AKIA:hunter2@bucket"},
        {"url": "s3://bucket", "endpoint_url": "https://u:hunter2@h.test"},
        {"url": "s3://bucket", "public_url_base": "https://h.test/?k=hunter2"},
    ):
        with pytest.raises(ConfigError) as caught:
            MediaStore(**arguments, **KEYS)
        assert "hunter2" not in str(caught.value)


def test_urls_are_normalised() -> None:
    """Slashes and the prefix have one form."""
    assert MediaStore("s3://bucket//a///b/", **KEYS).url == "s3://bucket/a/b"
    assert MediaStore("memory://m").url == "memory://m"
    assert MediaStore("file:///tmp//x/../y/").url == "file:///tmp/y"


def test_arguments_win_over_resource_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """First argument, then S3 resource, then environment, each for itself."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT00000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "environment-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://environment.test:1")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    store = MediaStore("s3://bucket")
    assert _static(store).access_key_id == "AKIAENVIRONMENT00000"
    assert _static(store).session_token == "environment-token"
    assert (_access(store).endpoint, _access(store).region) == (
        "http://environment.test:1",
        "eu-north-1",
    )
    resource = _resource(
        endpoint_url="http://resource.test:2",
        region_name="eu-west-3",
        aws_access_key_id="AKIARESOURCE00000000",
        aws_secret_access_key="resource-secret",
    )
    store = MediaStore("s3://bucket", s3=resource)
    assert _static(store).access_key_id == "AKIARESOURCE00000000"
    assert _static(store).session_token is None
    assert (_access(store).endpoint, _access(store).region) == (
        "http://resource.test:2",
        "eu-west-3",
    )
    store = MediaStore("s3://bucket", s3=resource, region="us-west-2", **KEYS)
    assert _static(store).access_key_id == KEYS["access_key_id"]
    assert (_access(store).endpoint, _access(store).region) == (
        "http://resource.test:2",
        "us-west-2",
    )


def test_half_a_key_pair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing half is named, in the words of where the other came from."""
    with pytest.raises(ConfigError, match="secret_access_key is missing"):
        MediaStore("s3://bucket", access_key_id="AKIA")
    with pytest.raises(ConfigError, match="aws_access_key_id is missing"):
        MediaStore("s3://bucket", s3=_resource(aws_secret_access_key="x"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is missing"):
        MediaStore("s3://bucket")


def test_b2_reads_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bucket, key, region and endpoint come from B2_*; nothing of AWS_* leaks in."""
    with pytest.raises(ConfigError, match="B2_KEY_ID and B2_APP_KEY"):
        MediaStore("b2://bucket")
    for name, value in {
        "AWS_SESSION_TOKEN": "aws-token",
        "AWS_ENDPOINT_URL": "http://aws.test",
        "AWS_REGION": "eu-north-1",
        "B2_BUCKET": "from-env",
        "B2_KEY_ID": "k",
        "B2_APP_KEY": "s",
    }.items():
        monkeypatch.setenv(name, value)
    store = MediaStore("b2://")
    assert store.url == "b2://from-env"
    assert _access(store).endpoint == "https://s3.us-west-004.backblazeb2.com"
    assert _static(store).session_token is None
    monkeypatch.setenv("B2_REGION", "eu-central-003")
    assert _access(MediaStore("b2://x")).endpoint == "https://s3.eu-central-003.backblazeb2.com"
    monkeypatch.setenv("B2_ENDPOINT_URL", "http://127.0.0.1:9/")
    store = MediaStore("b2://x")
    assert _access(store).endpoint == "http://127.0.0.1:9"
    assert _access(store).region == "eu-central-003"


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-central-003.backblazeb2.com", "eu-central-003"),
        ("https://acct.r2.cloudflarestorage.com", "auto"),
        ("http://localhost:9000", "us-east-1"),
    ],
)
def test_the_region_follows_from_known_endpoints(endpoint: str, region: str) -> None:
    """A B2 host names its region, R2 has one, everything else takes the default."""
    assert _access(MediaStore("s3://b", endpoint_url=endpoint, **KEYS)).region == region


def test_parts_are_signed_where_nothing_else_guards_them() -> None:
    """Plain http to another machine is exposed; TLS and loopback are not."""
    for endpoint, exposed in (
        ("http://minio.internal:9000", True),
        ("https://minio.internal:9000", False),
        ("http://127.0.0.1:9000", False),
        ("http://localhost:9000", False),
        (None, False),
    ):
        store = MediaStore("s3://b", endpoint_url=endpoint, **KEYS)
        assert _access(store).is_exposed is exposed


def test_a_resource_without_tls_needs_an_endpoint() -> None:
    """`use_ssl=False` alone would mean AWS in the clear."""
    with pytest.raises(ConfigError, match="endpoint_url"):
        MediaStore("s3://b", s3=_resource(use_ssl=False), **KEYS)


def test_an_unsigned_resource_reads_without_credentials() -> None:
    """`use_unsigned_session` asks for no credentials at all."""
    store = MediaStore("s3://b", s3=_resource(use_unsigned_session=True))
    assert _access(store).credentials is None


def test_a_real_resource_reaches_a_real_server(
    s3_server: S3Server, s3_bucket: str, quick: StoreOptions
) -> None:
    """An S3Resource is all a store needs."""
    resource = _resource(
        endpoint_url=s3_server.url,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    store = MediaStore(f"s3://{s3_bucket}", s3=resource, options=quick)
    asyncio.run(store.put("k", b"x", media_type=None))
    keys = [o["Key"] for o in resource.get_client().list_objects_v2(Bucket=s3_bucket)["Contents"]]
    assert keys == ["k"]


@pytest.fixture
def aws_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a profile in an AWS configuration of its own."""
    (tmp_path / "config").write_text("[profile media]\nregion = eu-west-1\n")
    (tmp_path / "credentials").write_text(
        "[media]\naws_access_key_id = test\naws_secret_access_key = test\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return "media"


def test_a_profile_gives_region_and_credentials(
    aws_profile: str, s3_server: S3Server, s3_bucket: str, quick: StoreOptions
) -> None:
    """A resource with only a profile works, also after pickling."""
    resource = _resource(profile_name=aws_profile, endpoint_url=s3_server.url)
    store = MediaStore(f"s3://{s3_bucket}", s3=resource, options=quick)
    assert _access(store).region == "eu-west-1"
    asyncio.run(store.put("k", b"x", media_type=None))
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert asyncio.run(copy.get("k")) == b"x"
    assert "Signature" in copy.presigned_get("k").url


def test_the_default_profile_is_used_without_anything_else(
    aws_profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_PROFILE alone is enough."""
    monkeypatch.setenv("AWS_PROFILE", aws_profile)
    store = MediaStore("s3://bucket")
    assert isinstance(_access(store).credentials, AwsConfigCredentials)
    assert _access(store).region == "eu-west-1"


def test_an_unknown_profile_is_named(aws_profile: str) -> None:
    """The profile's name and where it belongs are in the message."""
    with pytest.raises(ConfigError, match=r"'typo'.*~/\.aws/config"):
        MediaStore("s3://bucket", s3=_resource(profile_name="typo"))


def test_no_credentials_at_all_is_a_setting_and_not_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: StoreOptions
) -> None:
    """The first use names the variables to set."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    store = MediaStore("s3://bucket", endpoint_url="http://127.0.0.1:9", options=quick)
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        asyncio.run(store.check_access())
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        store.presigned_get("k")


def test_no_text_form_shows_a_secret() -> None:
    """repr of store, configuration and client hold neither key nor secret nor token."""
    store = MediaStore("s3://bucket", session_token="a-token", **KEYS)
    shown = f"{store!r} {store.__getstate__()!r} {_access(store)!r} {store.client.name}"
    for secret in (*KEYS.values(), "a-token"):
        assert secret not in shown
