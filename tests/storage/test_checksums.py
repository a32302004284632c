"""Checksums that a service verifies and keeps, with a server that does so."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import MIB, StoreOptions
from genblaze_dagster.storage.store import MediaStore


@pytest.fixture
def client(checking_s3: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=checking_s3,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def _store(url: str, options: StoreOptions) -> MediaStore:
    return MediaStore(
        "s3://checked",
        endpoint_url=url,
        access_key_id="test",
        secret_access_key="test",
        options=options,
    )


def _kept(client: Any, key: str) -> dict[str, Any]:
    return client.head_object(Bucket="checked", Key=key, ChecksumMode="ENABLED")


def test_small_media_carries_its_sha256(checking_s3: str, client: Any) -> None:
    """The service verified x-amz-checksum-sha256 and returns it: it is the content address."""
    store = _store(checking_s3, StoreOptions(checksums=True, max_retries=0))
    stored = asyncio.run(
        store.put_media(b"small", media_type=None, extension=None, placement=Placement("r", "a"))
    )
    digest = base64.b64encode(hashlib.sha256(b"small").digest()).decode()
    assert _kept(client, stored.key)["ChecksumSHA256"] == digest


def test_parts_carry_a_crc_instead_of_a_second_hash(checking_s3: str, client: Any) -> None:
    """The service verified a CRC-64 of every part and keeps one for the object."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(7):
            yield bytes([number]) * MIB

    options = StoreOptions(checksums=True, max_retries=0, single_put_bytes=MIB, part_bytes=5 * MIB)
    store = _store(checking_s3, options)
    stored = asyncio.run(
        store.put_media(pieces(), media_type=None, extension=None, placement=Placement("r", "a"))
    )
    kept = _kept(client, stored.key)
    assert kept["ContentLength"] == 7 * MIB
    assert kept["ChecksumCRC64NVME"]


def test_without_the_option_no_checksum_header_is_sent(checking_s3: str, client: Any) -> None:
    """Services other than AWS get none by default."""
    store = _store(checking_s3, StoreOptions(max_retries=0))
    asyncio.run(store.put("plain", b"x", media_type=None))
    assert not [name for name in _kept(client, "plain") if name.startswith("ChecksumSHA")]


@pytest.mark.parametrize(
    ("endpoint", "expected"), [(None, True), ("https://s3.us-west-004.backblazeb2.com", False)]
)
def test_aws_gets_checksums_by_default(endpoint: str | None, expected: bool) -> None:
    """AWS checks and keeps them; Backblaze used to answer 400."""
    store = MediaStore("s3://b", endpoint_url=endpoint, access_key_id="a", secret_access_key="b")
    assert store.client.access is not None
    assert store.client.access.is_aws is expected
