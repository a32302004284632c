from pathlib import Path

import orjson
import pytest

from genblaze_dagster.core.reference import MediaRef, Rendition
from genblaze_dagster.errors import ConfigError, SchemaError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.refs import list_refs, write_ref
from genblaze_dagster.trust import BytesVerdict, Verdict, verify
from tests.cli.conftest import Shelf
from tests.trust.conftest import write


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'{"version": 99}', id="newer"),
        pytest.param(b'{"version": 1}', id="bare"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b" " * (2 << 20), id="too-long"),
    ],
)
def test_one_damaged_reference_ends_no_run(content: bytes, shelf: Shelf) -> None:
    """It is a finding that names it, and the good one beside it is still read."""
    good = shelf.add("good")
    shelf.overwrite("refs/still/bad.json", content)
    report = verify(shelf.store.url)
    assert report.kind == "store"
    (finding,) = report.findings
    assert (finding.problem, finding.subject) == ("reference damaged", "refs/still/bad.json")
    assert report.verdict is Verdict.FAILED
    # What could be looked at was: the damage is in the references, not in the bytes.
    assert report.bytes is BytesVerdict.VERIFIED
    assert f"{len(good.data):,} bytes read" in report.why


def test_a_store_of_nothing_but_damage_says_nothing_about_bytes(shelf: Shelf) -> None:
    """No output was found, so none is called verified."""
    shelf.overwrite("refs/still/bad.json", b"{")
    report = verify(shelf.store.url)
    assert report.bytes is BytesVerdict.UNDECIDED
    assert "0 file(s)" in report.why
    assert report.verdict is Verdict.FAILED


@pytest.mark.parametrize("field", ["manifest_key", "asset_key", "canonical_hash", "partition_key"])
@pytest.mark.parametrize("value", [7, ["x"], {"a": 1}])
def test_a_reference_of_wrong_types_is_damaged(field: str, value: object, shelf: Shelf) -> None:
    """JSON of the right shape with numbers for names is refused before anything uses it."""
    fields = shelf.add("good").ref.to_dict() | {field: value}
    shelf.overwrite("refs/still/bad.json", orjson.dumps(fields))
    assert [finding.subject for finding in verify(shelf.store.url).findings] == [
        "refs/still/bad.json"
    ]


@pytest.mark.parametrize("media", ["x", ["x"], [{}], [{"key": 1}], [None]])
def test_a_reference_without_usable_media_is_damaged(media: object, shelf: Shelf) -> None:
    """The list of outputs is looked at, too."""
    fields = shelf.add("good").ref.to_dict() | {"media": media}
    shelf.overwrite("refs/still/bad.json", orjson.dumps(fields))
    assert len(verify(shelf.store.url).findings) == 1


def test_without_a_listener_damage_ends_the_listing(shelf: Shelf) -> None:
    """Everybody else must not work on with a reference less."""
    shelf.overwrite("refs/still/bad.json", b"{")

    async def listed() -> list[MediaRef]:
        return [ref async for ref in list_refs(shelf.store)]

    with pytest.raises(SchemaError, match=r"bad\.json"):
        run_sync(listed())


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "a//b", "/etc/passwd"])
def test_a_reference_that_leads_out_of_the_store_is_a_finding(key: str, shelf: Shelf) -> None:
    """No key outside is read, and the rest is verified."""
    ref = shelf.add("good").ref
    fields = ref.to_dict()
    fields["media"][0]["key"] = key
    shelf.overwrite("refs/still/bad.json", orjson.dumps(fields))
    report = verify(shelf.store.url)
    assert [finding.problem for finding in report.findings] in (
        ["cannot be read"],
        ["bytes missing"],
    )
    assert report.verdict is not Verdict.VERIFIED_UNSIGNED


def test_an_oversized_manifest_is_a_finding(shelf: Shelf) -> None:
    """17 MiB where a manifest should be: not read, not an end."""
    shelf.add("good")
    bad = shelf.add("bad")
    shelf.overwrite(bad.ref.manifest_key, b" " * (17 << 20))
    report = verify(shelf.store.url)
    (finding,) = report.findings
    assert (finding.problem, finding.partition_key) == ("cannot be read", "bad")
    assert report.verdict is Verdict.INCONCLUSIVE


def test_embedded_renditions_are_read_too(shelf: Shelf) -> None:
    """The file with the manifest inside is stored under its own hash, which must hold."""
    from dataclasses import replace

    stored = shelf.add("p")
    key = "assets/embedded.png"
    shelf.overwrite(key, b"with a manifest")
    rendition = Rendition(sha256="c" * 64, size_bytes=15, key=key, url=shelf.store.durable_url(key))
    media = replace(stored.ref.media[0], embedded=rendition)
    run_sync(write_ref(shelf.store, replace(stored.ref, media=(media,))))
    report = verify(shelf.store.url)
    assert [(finding.problem, finding.subject) for finding in report.findings] == [
        ("bytes differ", key)
    ]


def test_a_folder_of_reference_pictures_is_no_store(tmp_path: Path) -> None:
    """`refs/` is a common name; a store is known by the references in it."""
    write(tmp_path / "refs" / "mood" / "a.png", b"x")
    write(tmp_path / "refs" / "mood" / "a.png.genblaze.json", b"{}")
    assert verify(tmp_path).kind == "folder"


def test_a_store_is_not_asked_what_makes_no_sense(shelf: Shelf) -> None:
    """Without bytes nothing is left to check, and the bytes it holds are the ones to check."""
    shelf.add("p")
    for option in ({"hash_only": True}, {"fetch": True}):
        with pytest.raises(ConfigError, match="checked with the bytes it holds"):
            verify(shelf.store.url, **option)


def test_a_store_knows_a_file_although_another_reference_is_damaged(
    shelf: Shelf, tmp_path: Path
) -> None:
    """Damage hides only what it might have led to: unknown bytes, never known ones."""
    stored = shelf.add("p")
    shelf.overwrite("refs/still/bad.json", b"{")
    loose = write(tmp_path / "loose.png", stored.data)
    assert verify(loose, store=shelf.store).verdict is Verdict.VERIFIED_UNSIGNED
    loose.write_bytes(b"unknown")
    with pytest.raises(SchemaError, match=r"bad\.json"):
        verify(loose, store=shelf.store)
