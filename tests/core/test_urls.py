"""URLs of assets without a hash, as schema 1.6 identifies them."""

import pytest

from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError


@pytest.mark.parametrize(
    ("url", "stripped"),
    [
        ("https://h.test/x?X-Goog-Signature=a&id=1", "https://h.test/x?id=1"),
        ("https://h.test/x?GoogleAccessId=a&Expires=1&Signature=s", "https://h.test/x"),
        ("https://h.test/x?Key-Pair-Id=a&Policy=p&Signature=s&a=b", "https://h.test/x?a=b"),
        ("https://h.test/x?policy=p&sig=1&st=2", "https://h.test/x?policy=p&sig=1&st=2"),
        ("https://h.test/x?&&a=&=b&c", "https://h.test/x?=b&a=&c"),
        ("https://h.test:0080/x", "https://h.test:80/x"),
        ("relative/path?b=1&a=2", "relative/path?a=2&b=1"),
        ("//User:Pw@Host.Test/x", "//host.test/x"),
        ("https://h.test/%zz?%zz=%C3%A9", "https://h.test/%zz?%25zz=%C3%A9"),
    ],
)
def test_what_names_the_object_stays(url: str, stripped: str) -> None:
    """Signatures of every vendor go, and the rest is put in one spelling."""
    assert strip_credentials(url) == stripped


def test_stripping_twice_changes_nothing() -> None:
    """The stripped form is already stripped."""
    url = "HTTPS://u:p@H.test:443/a%20b?b=a+b&X-Amz-Date=1&a&sv=1&sig=2#f"
    once = strip_credentials(url)
    assert strip_credentials(once) == once


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999/x", "http://h:port/x"])
def test_a_malformed_url_is_a_typed_error(url: str) -> None:
    """What cannot be split is refused, and not repeated in the message."""
    with pytest.raises(ManifestError, match="malformed") as refusal:
        strip_credentials(url)
    assert url not in str(refusal.value)
