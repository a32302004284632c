import pytest

from genblaze_dagster.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigError,
    NotFoundError,
)
from genblaze_dagster.storage.backend import S3StorageBackend
from genblaze_dagster.storage.options import PutMode, StoreOptions
from genblaze_dagster.storage.urls import URLPolicy
from tests.storage.faults import Answer, FaultServer
from tests.support.s3 import S3Server

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture
def backend(s3_server: S3Server, s3_bucket: str, quick: StoreOptions) -> S3StorageBackend:
    return S3StorageBackend(s3_bucket, s3_server.url, options=quick, **KEYS)


def test_every_operation_on_a_real_server(backend: S3StorageBackend) -> None:
    """The blocking methods do what their names say."""
    assert backend.put("a/one", b"0123456789", content_type="text/plain") == "a/one"
    assert backend.get("a/one") == b"0123456789"
    assert backend.get_range("a/one", 3, 4) == b"3456"
    assert list(backend.stream("a/one", chunk=4)) == [b"0123", b"4567", b"89"]
    head = backend.head("a/one")
    assert head is not None
    assert (head.size_bytes, head.media_type) == (10, "text/plain")
    with pytest.raises(AlreadyExistsError):
        backend.put("a/one", b"x", mode=PutMode.CREATE)
    backend.copy("a/one", "a/two")
    backend.put("ab", b"x")
    assert [info.key for info in backend.list("a/t")] == ["a/two"]
    assert [info.key for info in backend.list("a")] == ["a/one", "a/two", "ab"]
    backend.delete("a/one")
    assert not backend.exists("a/one")
    assert backend.exists("a/two")
    with pytest.raises(NotFoundError):
        backend.get("a/one")
    with pytest.raises(NotFoundError):
        list(backend.stream("a/one"))


def test_presigned_urls_work_on_a_real_server(backend: S3StorageBackend) -> None:
    """A PUT and a GET by URL alone."""
    import urllib.request

    put = backend.presigned_put("signed", content_type="text/plain")
    request = urllib.request.Request(
        put.url, data=b"by url", method=put.method, headers=dict(put.headers)
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(backend.presigned_get("signed").url) as answer:
        assert answer.read() == b"by url"


def test_one_credential_has_one_name() -> None:
    """Both spellings of one setting are refused, each alone is fine."""
    with pytest.raises(ConfigError, match="aws_access_key_id and access_key_id"):
        S3StorageBackend("b", aws_access_key_id="x", access_key_id="x")
    short = S3StorageBackend("b", access_key_id="x", secret_access_key="y")
    assert "'s3://b at https://s3.amazonaws.com'" in repr(short)


def test_urls_follow_the_policy() -> None:
    """AUTO prefers the public base, PUBLIC insists on it, PRESIGNED ignores it."""
    private = S3StorageBackend("b", region="us-east-1", **KEYS)
    public = S3StorageBackend("b", region="us-east-1", public_url_base="https://cdn.test/", **KEYS)
    assert public.get_url("k") == "https://cdn.test/k"
    assert public.get_url("k", expires_in=5) == "https://cdn.test/k"
    assert "X-Amz-Expires=3600" in private.get_url("k")
    assert "X-Amz-Expires=5" in public.get_url("k", policy=URLPolicy.PRESIGNED, expires_in=5)
    with pytest.raises(ConfigError, match="public_url_base"):
        private.get_url("k", policy=URLPolicy.PUBLIC)
    with pytest.raises(ConfigError, match="does not expire"):
        public.get_url("k", policy="public", expires_in=5)


def test_backblaze_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, faults: FaultServer, quick: StoreOptions
) -> None:
    """Bucket, key and endpoint come from B2_* variables; preflight looks at the bucket."""
    with pytest.raises(ConfigError, match="B2_BUCKET"):
        S3StorageBackend.for_backblaze()
    with pytest.raises(ConfigError, match="B2_APP_KEY"):
        S3StorageBackend.for_backblaze("media")
    for name, value in {
        "B2_BUCKET": "media",
        "B2_KEY_ID": "004abc",
        "B2_APP_KEY": "K004-not-shown",
        "B2_ENDPOINT_URL": faults.url,
    }.items():
        monkeypatch.setenv(name, value)
    backend = S3StorageBackend.for_backblaze(options=quick)
    assert backend.bucket == "media"
    assert len(faults.requests) == 1
    faults.rule = lambda _: Answer(403, "InvalidAccessKeyId")
    with pytest.raises(AccessDeniedError, match="credentials"):
        S3StorageBackend.for_backblaze(options=quick)
    backend = S3StorageBackend.for_backblaze(options=quick, preflight=False, app_key="other")
    assert "K004-not-shown" not in repr(backend)
    assert len(faults.requests) == 2


def test_backblaze_urls() -> None:
    """Durable URLs are those of the region's endpoint, or of the friendly base."""
    settings = {"key_id": "k", "app_key": "s", "preflight": False}
    backend = S3StorageBackend.for_backblaze("my-bucket", region="us-east-005", **settings)
    url = backend.durable_url("a b")
    assert url == "https://s3.us-east-005.backblazeb2.com/my-bucket/a%20b"
    assert backend.key_from_url(url) == "a b"
    friendly = "https://f004.backblazeb2.com/file/my-bucket"
    backend = S3StorageBackend.for_backblaze("my-bucket", public_url_base=friendly, **settings)
    assert backend.durable_url("a b") == f"{friendly}/a%20b"
