from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.media.embedding import embed
from genblaze_dagster.trust import Check, Verdict, VerificationReport, verify
from tests.cli.conftest import Shelf
from tests.trust.conftest import embedded, made_by, write, write_sidecar

Media = Mapping[str, tuple[bytes, bytes]]


def agreement(report: VerificationReport) -> Check | None:
    return next((check for check in report.checks if check.name == "manifests_agree"), None)


def test_one_manifest_is_nothing_to_compare(media: Media, tmp_path: Path) -> None:
    """A check nobody makes is not listed."""
    data = media["png"][0]
    assert agreement(verify(embedded(tmp_path / "a.png", data))) is None
    path = write(tmp_path / "b.png", data)
    write_sidecar(path, made_by(data))
    assert agreement(verify(path)) is None


def test_a_sidecar_that_says_the_same_passes(media: Media, tmp_path: Path) -> None:
    """The manifest inside and the one beside are one."""
    data = media["png"][0]
    manifest = made_by(data)
    path = embedded(tmp_path / "a.png", data, manifest)
    write_sidecar(path, manifest)
    report = verify(path)
    found = agreement(report)
    assert found is not None
    assert found.status == "pass"
    assert report.verdict is Verdict.VERIFIED_UNSIGNED


def test_a_sidecar_that_says_otherwise_leaves_it_undecided(media: Media, tmp_path: Path) -> None:
    """Both are about these bytes and name other prompts: which one is a lie, nobody can tell."""
    data = media["png"][0]
    path = embedded(tmp_path / "a.png", data)
    write_sidecar(path, made_by(data, prompt="something else"))
    report = verify(path)
    found = agreement(report)
    assert found is not None
    assert found.status == "unknown"
    assert "remove or replace" in found.detail
    assert report.bytes == "bytes verified"
    assert report.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 1}'])
def test_a_sidecar_that_cannot_be_read_leaves_it_undecided(
    content: bytes, media: Media, tmp_path: Path
) -> None:
    """Something claims to be about this file and says nothing that can be checked."""
    path = embedded(tmp_path / "a.png", media["png"][0])
    write(tmp_path / "a.png.genblaze.json", content)
    report = verify(path)
    assert report.verdict is Verdict.INCONCLUSIVE
    found = agreement(report)
    assert found is not None
    assert "none that can be read" in found.detail


def test_a_pointer_beside_its_own_manifest_passes(media: Media, tmp_path: Path) -> None:
    """A pointer with the canonical hash of the embedded manifest contradicts nothing."""
    data = media["png"][0]
    manifest = made_by(data)
    manifest.manifest_uri = "https://media.example.com/manifests/m.json"
    path = embedded(tmp_path / "a.png", data, manifest)
    pointer = manifest.to_embed_json(EmbedPolicy(embed_mode=EmbedMode.POINTER))
    write(tmp_path / "a.png.genblaze.json", pointer.encode())
    found = agreement(verify(path))
    assert found is not None
    assert found.status == "pass"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE), id="private"),
        pytest.param(EmbedPolicy(include_params=False, include_seed=False), id="no-params"),
    ],
)
def test_a_redacted_manifest_agrees_with_the_whole_one(
    policy: EmbedPolicy, media: Media, tmp_path: Path
) -> None:
    """The embedded manifest leaves out what the sidecar holds; they are the same run."""
    data = media["png"][0]
    manifest = made_by(data)
    step = manifest.run.steps[0]
    step.params, step.seed = {"steps": 30}, 7
    manifest.compute_hash()
    path = write(tmp_path / "a.png", data)
    embed(path, manifest, policy=policy)
    write_sidecar(path, manifest)
    report = verify(path)
    found = agreement(report)
    assert found is not None
    assert (found.status, found.detail) == ("pass", "the sidecar says the same")
    assert report.verdict is Verdict.VERIFIED_UNSIGNED


def test_a_claim_to_be_redacted_is_not_believed(media: Media, tmp_path: Path) -> None:
    """A manifest with another model that names the whole one's hash is no redaction of it."""
    data = media["png"][0]
    whole = made_by(data)
    lie = whole.redacted(EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE))
    lie.run.steps[0].model = "another-model"
    lie.compute_hash()
    path = embedded(tmp_path / "a.png", data, lie)
    write_sidecar(path, whole)
    found = agreement(verify(path))
    assert found is not None
    assert found.status == "unknown"


def test_equal_hashes_over_changed_content_do_not_agree(media: Media, tmp_path: Path) -> None:
    """A sidecar that repeats the hash and changes the content says something else."""
    data = media["png"][0]
    manifest = made_by(data)
    path = embedded(tmp_path / "a.png", data, manifest)
    sidecar = write_sidecar(path, manifest)
    sidecar.write_bytes(sidecar.read_bytes().replace(b"a pier", b"a reef"))
    found = agreement(verify(path))
    assert found is not None
    assert found.status == "unknown"


def test_a_named_store_decides_over_a_sidecar(shelf: Shelf, tmp_path: Path) -> None:
    """A stray sidecar is named, and does not make the store's answer less certain."""
    loose = write(tmp_path / "loose.png", shelf.add("p").data)
    write_sidecar(loose, made_by(b"other"))
    report = verify(loose, store=shelf.store)
    found = agreement(report)
    assert found is not None
    assert (found.status, report.verdict) == ("skip", Verdict.VERIFIED_UNSIGNED)


def test_an_embedded_file_is_found_in_the_store_by_its_original(
    sunk: Callable[..., Manifest], media: Media, tmp_path: Path
) -> None:
    """The store knows the bytes from before the embed, and its manifest is the one that counts."""
    data = media["png"][0]
    path = embedded(tmp_path / "a.png", data, sunk(data))
    report = verify(path, store=tmp_path / "sunk" / "genblaze")
    assert report.manifest is not None
    assert "sunk/genblaze, manifests/" in report.manifest.source
    assert report.bytes == "bytes verified"
    found = agreement(report)
    assert found is not None
    assert (found.status, report.verdict) == ("pass", Verdict.VERIFIED_UNSIGNED)


def test_an_output_that_carries_an_older_manifest_is_verified_in_the_store(
    sunk: Callable[..., Manifest], media: Media, tmp_path: Path
) -> None:
    """A provider may hand back a picture with the manifest of its input still inside."""
    path = embedded(tmp_path / "older.png", media["png"][0])
    sunk(path.read_bytes(), prompt="edited")
    report = verify(path, store=tmp_path / "sunk" / "genblaze")
    found = agreement(report)
    assert found is not None
    assert (found.status, report.verdict) == ("pass", Verdict.VERIFIED_UNSIGNED)
    assert "older one" in found.detail


def test_an_embedded_lie_about_a_file_of_the_store_is_told(
    sunk: Callable[..., Manifest], media: Media, tmp_path: Path
) -> None:
    """The bytes are the store's, what the file says of itself is not: nobody calls that verified."""
    data = media["png"][0]
    sunk(data)
    path = embedded(tmp_path / "a.png", data, made_by(data, prompt="painted by hand"))
    report = verify(path, store=tmp_path / "sunk" / "genblaze")
    assert report.bytes == "bytes verified"
    assert report.verdict is Verdict.INCONCLUSIVE
    # Without the store nothing contradicts it: an unsigned manifest is anybody's word.
    assert verify(path).verdict is Verdict.VERIFIED_UNSIGNED
