from collections.abc import Mapping
from pathlib import Path

import pytest

from genblaze_dagster.media.containers import container_of
from genblaze_dagster.media.edit import pieces, write_pieces
from genblaze_dagster.media.embedding import embed
from genblaze_dagster.media.extraction import extract
from genblaze_dagster.media.source import Source
from genblaze_dagster.trust import BytesVerdict, Verdict, verify
from tests.trust.conftest import KINDS, embedded, made_by, overwrite, write, write_sidecar

Media = Mapping[str, tuple[bytes, bytes]]

every_container = pytest.mark.parametrize("kind", list(KINDS))


@every_container
def test_an_embedded_file_is_verified_without_its_original(
    kind: str, media: Media, tmp_path: Path
) -> None:
    """What is in the file, less the manifest, hashes to the manifest's output."""
    path = embedded(tmp_path / f"a.{kind}", media[kind][0])
    report = verify(path)
    assert report.bytes is BytesVerdict.VERIFIED, report.why
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    assert "without the manifest in it" in report.why
    assert report.manifest is not None
    assert report.manifest.source.startswith("embedded")


@every_container
def test_a_manifest_pasted_into_another_file_fails(kind: str, media: Media, tmp_path: Path) -> None:
    """The embed of one file in another one: a perfect manifest about other bytes."""
    ours, theirs = media[kind]
    path = embedded(tmp_path / f"a.{kind}", theirs, made_by(ours))
    report = verify(path)
    assert report.bytes is BytesVerdict.DIFFER, report.why
    assert report.verdict is Verdict.FAILED
    assert "which is no output of the manifest" in report.why


@every_container
def test_one_changed_bit_of_the_media_fails(kind: str, media: Media, tmp_path: Path) -> None:
    """The manifest is as it was put in, a pixel or sample is not."""
    original = media[kind][0]
    path = embedded(tmp_path / f"a.{kind}", original)
    # A piece of the original from its middle, where the samples are.
    at = path.read_bytes().index(original[len(original) // 2 :][:32])
    overwrite(path, at + 16, bytes([path.read_bytes()[at + 16] ^ 1]))
    report = verify(path)
    assert report.bytes is BytesVerdict.DIFFER, report.why
    assert report.verdict is Verdict.FAILED


@every_container
@pytest.mark.parametrize("where", ["behind", "inside"])
def test_bytes_added_around_the_embed_are_never_verified(
    where: str, kind: str, media: Media, tmp_path: Path
) -> None:
    """Something an attacker hides in the file stays in what is hashed."""
    original = media[kind][0]
    path = embedded(tmp_path / f"a.{kind}", original)
    data = path.read_bytes()
    cut = len(data)
    if where == "inside":
        cut = data.index(original[len(original) // 2 :][:32])
    path.write_bytes(data[:cut] + b"\0\0\0\x18freehidden away, 16+" + data[cut:])
    report = verify(path)
    assert report.bytes is not BytesVerdict.VERIFIED, report.why
    assert report.verdict is not Verdict.VERIFIED_UNSIGNED


@every_container
def test_a_changed_manifest_inside_fails(kind: str, media: Media, tmp_path: Path) -> None:
    """The media is untouched, the prompt in the manifest is not."""
    path = embedded(tmp_path / f"a.{kind}", media[kind][0])
    data = path.read_bytes()
    assert data.count(b"a pier") == 1
    path.write_bytes(data.replace(b"a pier", b"a reef"))
    report = verify(path)
    assert report.verdict is Verdict.FAILED
    statuses = {check.name.value: check.status.value for check in report.checks}
    assert statuses["canonical_hash"] == "fail"


@every_container
def test_genblaze_made_files_are_verified_or_undecided(
    kind: str, vectors: Path, tmp_path: Path
) -> None:
    """PNG and MP4 can be taken apart with certainty; what was encoded again cannot."""
    expected = {"png": "plain.png", "mp4": "faststart.mp4", "jpg": "baseline.jpg"}
    expected |= {"webp": "lossy.webp", "mp3": "id3v23.mp3", "wav": "plain.wav"}
    expected["flac"] = "tagged.flac"
    report = verify(vectors / "genblaze" / "media" / "embedded" / expected[kind])
    undecided = kind in ("jpg", "webp", "mp3")
    assert report.bytes is (BytesVerdict.UNDECIDED if undecided else BytesVerdict.VERIFIED)
    if undecided:
        assert "cannot be told with certainty" in report.why
        assert report.verdict is Verdict.INCONCLUSIVE


def test_an_original_that_carries_an_older_manifest_is_verified_as_it_is(
    media: Media, tmp_path: Path
) -> None:
    """An edit of an embedded image is hashed with the manifest it came with."""
    older = embedded(tmp_path / "a.png", media["png"][0]).read_bytes()
    path = write(tmp_path / "b.png", older)
    write_sidecar(path, made_by(older))
    report = verify(path)
    assert report.bytes is BytesVerdict.VERIFIED, report.why
    assert report.manifest is not None
    assert report.manifest.source == "b.png.genblaze.json"
    assert report.verdict is Verdict.VERIFIED_UNSIGNED


def test_a_chain_of_embeds_is_verified_from_the_outside(media: Media, tmp_path: Path) -> None:
    """The newest manifest speaks of the file with the older one still inside."""
    path = embedded(tmp_path / "a.png", media["png"][0])
    older = path.read_bytes()
    embed(path, made_by(older, prompt="now edited"))
    assert extract(path).run.steps[0].prompt == "now edited"
    report = verify(path)
    assert report.bytes is BytesVerdict.VERIFIED, report.why
    agreement = next(check for check in report.checks if check.name == "manifests_agree")
    assert agreement.status == "pass"
    assert "part of the verified bytes" in agreement.detail


def test_a_second_manifest_in_front_of_other_bytes_is_said(media: Media, tmp_path: Path) -> None:
    """Two manifests in a file that matches neither: both are named as a problem."""
    path = write(tmp_path / "a.png", media["png"][0])
    for prompt in ("one", "two"):
        with Source.open(path) as source:
            container = container_of(source)
            assert container is not None
            payload = made_by(b"other bytes", prompt=prompt).to_canonical_json().encode()
            content = pieces(source.size, container.format.plan_embed(source, payload))
        write_pieces(path, content, tmp_path / "next.png")
        (tmp_path / "next.png").replace(path)
    report = verify(path)
    assert report.verdict is Verdict.FAILED
    agreement = next(check for check in report.checks if check.name == "manifests_agree")
    assert (agreement.status, "more than one manifest" in agreement.detail) == ("unknown", True)


def test_outputs_without_a_hash_leave_the_bytes_undecided(media: Media, tmp_path: Path) -> None:
    """Nothing can be compared with an output nobody hashed; the manifest fails for that."""
    data = media["png"][0]
    manifest = made_by(b"other bytes")
    step = manifest.run.steps[0]
    step.assets[0].sha256 = None
    manifest.compute_hash()
    report = verify(embedded(tmp_path / "a.png", data, manifest))
    assert report.bytes is BytesVerdict.UNDECIDED
    assert report.verdict is Verdict.FAILED


def test_two_equal_outputs_do_not_blur_the_answer(media: Media, tmp_path: Path) -> None:
    """A step that put out the same bytes twice still says what they hash to."""
    path = write(tmp_path / "a.png", media["png"][0])
    write_sidecar(path, made_by(b"other bytes", b"other bytes"))
    assert verify(path).bytes is BytesVerdict.DIFFER


def test_a_manifest_without_outputs_speaks_of_no_file(media: Media, tmp_path: Path) -> None:
    """A manifest of a run that made nothing does not vouch for anything."""
    report = verify(embedded(tmp_path / "a.png", media["png"][0], made_by()))
    assert report.bytes is BytesVerdict.DIFFER
