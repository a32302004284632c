import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import ConflictError, SchemaError
from genblaze_dagster.storage.failures import invalid_key
from genblaze_dagster.storage.refs import list_refs, read_ref, read_refs, ref_key, write_ref
from genblaze_dagster.storage.store import MediaStore

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=300)
PLAIN = st.lists(st.sampled_from(["a", "b", "a.json", "@", ".", "b.json"]), min_size=1, max_size=3)


def _ref(asset_key: str = "cats/image", partition_key: str | None = "row-1") -> MediaRef:
    media = MediaObject("a1", "0" * 64, 3, "image/png", "assets/x.png", "https://h.test/x.png")
    return MediaRef(
        asset_key=asset_key,
        partition_key=partition_key,
        run_id="r1",
        step_id="s1",
        manifest_key="manifests/r1.json",
        manifest_url="https://h.test/manifests/r1.json",
        canonical_hash="1" * 64,
        generation_key="g1",
        provider="local",
        model="local-image",
        modality="image",
        cost_usd=0.0,
        created_at="2026-11-20T00:00:00+00:00",
        media=(media,),
    )


@pytest.mark.parametrize(
    ("asset", "partition", "key"),
    [
        ("cats", "row-1", "refs/cats/row-1.json"),
        ("cats/image", "row-1", "refs/cats/image/row-1.json"),
        ("cats/image", None, "refs/cats/image/@.json"),
        ("cats", "image/@", "refs/cats/image%2F%40.json"),
        ("a.json", "..", "refs/a%2Ejson/...json"),
        ("../x", "a|b", "refs/%2E%2E/x/a%7Cb.json"),
        ("cats", "Größe", "refs/cats/Gr%C3%B6%C3%9Fe.json"),
    ],
)
def test_reference_keys_are_readable_and_escaped(
    asset: str, partition: str | None, key: str
) -> None:
    """Ordinary names stay as they are, the others are percent-escaped."""
    assert ref_key(asset, partition) == key


@given(NAMES, NAMES | st.none(), NAMES, NAMES | st.none())
def test_different_names_have_different_keys(
    asset: str, partition: str | None, other_asset: str, other_partition: str | None
) -> None:
    """Any names: valid, file-system sized keys, and two pairs share one only when they are equal."""
    key, other = ref_key(asset, partition), ref_key(other_asset, other_partition)
    assert (key == other) == ((asset, partition) == (other_asset, other_partition))
    if "" not in asset.split("/"):
        assert invalid_key(key) is None
    assert all(len(segment.encode()) <= 255 for segment in key.split("/"))


@given(PLAIN, st.sampled_from(["a", "b", "@", "a.json", None]), PLAIN)
def test_no_reference_is_a_folder_of_another(
    asset: list[str], partition: str | None, other_asset: list[str]
) -> None:
    """On a file system a key must never be the folder another key lies in."""
    key = ref_key("/".join(asset), partition)
    assert not ref_key("/".join(other_asset), "x").startswith(f"{key}/")


def test_references_read_back(store: MediaStore) -> None:
    """What was written last is what is read, for partitioned and unpartitioned assets."""

    async def body() -> None:
        assert await read_ref(store, "cats/image", "row-1") is None
        ref = _ref()
        await write_ref(store, ref)
        await write_ref(store, replace(ref, run_id="r2"))
        await write_ref(store, _ref(partition_key=None))
        assert await read_ref(store, "cats/image", "row-1") == replace(ref, run_id="r2")
        assert await read_ref(store, "cats/image", None) == _ref(partition_key=None)

    asyncio.run(body())


def test_many_references_are_read_at_once(store: MediaStore) -> None:
    """Missing partitions are simply absent."""

    async def body() -> None:
        keys = [f"row-{number}" for number in range(40)]
        for key in keys[:35]:
            await write_ref(store, _ref(partition_key=key))
        found = await read_refs(store, "cats/image", keys)
        assert list(found) == keys[:35]
        assert all(ref.partition_key == key for key, ref in found.items())

    asyncio.run(body())


def test_listing_is_by_asset(store: MediaStore) -> None:
    """All references, or those of one asset without those of assets below it."""

    async def body() -> None:
        refs = [_ref("cats"), _ref("cats", None), _ref("cats/image"), _ref("dogs")]
        for ref in refs:
            await write_ref(store, ref)
        assert [r async for r in list_refs(store, "nobody")] == []
        listed = {(r.asset_key, r.partition_key) async for r in list_refs(store, "cats")}
        assert listed == {("cats", "row-1"), ("cats", None)}
        assert len([r async for r in list_refs(store)]) == 4

    asyncio.run(body())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 99}', b"\xff"])
def test_a_broken_reference_is_named(content: bytes) -> None:
    """Truncated, foreign and newer references are typed errors."""
    store = MediaStore("memory://broken-ref")

    async def body() -> None:
        await store.put(ref_key("a", "b"), content, media_type=None)
        with pytest.raises(SchemaError):
            await read_ref(store, "a", "b")

    asyncio.run(body())


def test_a_reference_of_another_name_is_not_taken() -> None:
    """As on a file system that ignores case."""
    store = MediaStore("memory://case")

    async def body() -> None:
        await write_ref(store, _ref("cats", "A"))
        await store.copy(ref_key("cats", "A"), ref_key("cats", "a"))
        with pytest.raises(ConflictError, match="rename"):
            await read_ref(store, "cats", "a")

    asyncio.run(body())
