"""`embed` over all containers: what goes where, what is replaced, what stays, what is shown."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.errors import EmbeddingError, ManifestError, PointerSidecarError
from genblaze_dagster.media import EmbedMethod, embed, extract, strip, strip_to
from genblaze_dagster.media.extraction import ManifestSource, extract_payload
from genblaze_dagster.media.mp4 import MANIFEST_UUID
from genblaze_dagster.media.sidecar import sidecar_path
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original

PROMPT = "a lighthouse nobody has ever painted, 灯台"
EMBEDDABLE = (
    "plain.png",
    "chunks.png",
    "baseline.jpg",
    "progressive.jpg",
    "alpha.webp",
    "anim.webp",
    "lossy.webp",
    "lossless.webp",
    "audio.m4a",
    "faststart.mp4",
    "moov_last.mp4",
    "mdat_size0.mp4",
    "no_tag.mp3",
    "id3v23.mp3",
    "plain.wav",
    "list_info.wav",
    "odd_unpadded.wav",
    "tagged.flac",
)
KINDS = ("plain.png", "baseline.jpg", "lossy.webp", "faststart.mp4", "no_tag.mp3", "plain.wav")


def manifest_of(data: bytes, *, prompt: str = PROMPT) -> Manifest:
    """A manifest whose one output is these bytes."""
    asset = Asset(
        url="https://media.test/output",
        media_type="application/octet-stream",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )
    step = Step(
        provider="acme",
        model="model-1",
        prompt=prompt,
        seed=918273645,
        params={"style": "confidential-style"},
        assets=[asset],
    )
    return Manifest.from_run(Run(name="embedding", steps=[step]))


@pytest.fixture
def originals(vectors: Path) -> Path:
    """Files of every kind, without a manifest."""
    return vectors / "genblaze/media/original"


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", EMBEDDABLE)
def test_every_container_gives_back_manifest_and_bytes(
    name: str, originals: Path, tmp_path: Path
) -> None:
    """Embedding is read back in full, and stripping gives the very bytes."""
    data = (originals / name).read_bytes()
    path, manifest = put(tmp_path, name, data), manifest_of(data)
    result = embed(path, manifest)
    assert (result.method, result.embed_error) == (EmbedMethod.INLINE, None)
    assert result.path == path
    assert result.sidecar_path is None
    assert extract(path).to_canonical_json() == manifest.to_canonical_json()
    assert strip(path) == data
    strip_to(path, tmp_path / "stripped")
    assert (tmp_path / "stripped").read_bytes() == data
    assert os.listdir(tmp_path).count(name) == 1
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("name", EMBEDDABLE)
def test_a_second_embed_replaces_the_first(name: str, originals: Path, tmp_path: Path) -> None:
    """Only the newest manifest is left, as if it had been the only one."""
    data = (originals / name).read_bytes()
    twice, once = put(tmp_path, f"twice-{name}", data), put(tmp_path, f"once-{name}", data)
    newer = manifest_of(data, prompt="another prompt")
    embed(twice, manifest_of(data))
    embed(twice, newer)
    embed(once, newer)
    assert twice.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("name", EMBEDDABLE)
def test_a_manifest_about_an_embedded_file_leaves_the_older_one(
    name: str, originals: Path, tmp_path: Path
) -> None:
    """An edit of an earlier output carries both manifests; each strip takes one away."""
    data = (originals / name).read_bytes()
    path, first = put(tmp_path, name, data), manifest_of(data)
    embed(path, first)
    with_first = path.read_bytes()
    second = manifest_of(with_first, prompt="the edit of it")
    assert embed(path, second).method is EmbedMethod.INLINE
    assert extract(path).canonical_hash == second.canonical_hash
    assert strip(path) == with_first
    path.write_bytes(strip(path))
    assert extract(path).canonical_hash == first.canonical_hash
    assert strip(path) == data


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("visibility", [PromptVisibility.PRIVATE, PromptVisibility.REDACTED])
def test_what_a_policy_hides_is_not_in_the_file(
    name: str, visibility: PromptVisibility, originals: Path, tmp_path: Path
) -> None:
    """Prompt, params and seed are nowhere in the bytes, in no spelling; the rest verifies."""
    data = (originals / name).read_bytes()
    path = put(tmp_path, name, data)
    policy = EmbedPolicy(prompt_visibility=visibility, include_params=False, include_seed=False)
    assert embed(path, manifest_of(data), policy=policy).method is EmbedMethod.INLINE
    content = path.read_bytes()
    for secret in ("lighthouse", "painted", "confidential-style", "918273645"):
        assert secret.encode() not in content
        assert secret.encode("utf-16-le") not in content
    assert "灯台".encode() not in content
    assert json.dumps("灯台")[1:-1].encode() not in content
    assert extract(path).verify()
    assert strip(path) == data


def test_a_private_prompt_is_not_in_a_sidecar_either(originals: Path, tmp_path: Path) -> None:
    """The policy holds for the file beside a format that cannot carry a manifest."""
    data = (originals / "picture.gif").read_bytes()
    path = put(tmp_path, "picture.gif", data)
    policy = EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE)
    result = embed(path, manifest_of(data), policy=policy)
    assert result.method is EmbedMethod.SIDECAR
    assert result.embed_error is None
    assert result.sidecar_path == sidecar_path(path)
    assert b"lighthouse" not in sidecar_path(path).read_bytes()
    assert path.read_bytes() == data


def test_nothing_is_written_under_none(originals: Path, tmp_path: Path) -> None:
    """Mode none leaves the file alone, and an output is a copy of it."""
    data = (originals / "plain.png").read_bytes()
    path = put(tmp_path, "a.png", data)
    policy = EmbedPolicy(embed_mode=EmbedMode.NONE)
    assert embed(path, manifest_of(data), policy=policy).method is EmbedMethod.NONE
    result = embed(path, manifest_of(data), tmp_path / "out" / "b.png", policy=policy)
    assert result.path.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["a.png", "out"]


def test_a_pointer_goes_beside_the_file(originals: Path, tmp_path: Path) -> None:
    """Mode pointer shows where the manifest is and nothing else; without an address it cannot."""
    data = (originals / "plain.png").read_bytes()
    path, manifest = put(tmp_path, "a.png", data), manifest_of(data)
    policy = EmbedPolicy(embed_mode=EmbedMode.POINTER)
    with pytest.raises(ManifestError, match="manifest_uri"):
        embed(path, manifest, policy=policy)
    manifest.manifest_uri = "https://media.test/manifests/1.json"
    result = embed(path, manifest, policy=policy)
    assert result.method is EmbedMethod.POINTER
    assert result.manifest_uri == manifest.manifest_uri
    assert path.read_bytes() == data
    with pytest.raises(PointerSidecarError):
        extract(path)


@pytest.mark.parametrize("name", [*KINDS, "notes.txt"])
def test_an_output_leaves_the_source_alone(name: str, originals: Path, tmp_path: Path) -> None:
    """With `output` the media is there, too, when the manifest goes beside it."""
    data = (originals / name).read_bytes()
    path, manifest = put(tmp_path, name, data), manifest_of(data)
    path.chmod(0o600)
    result = embed(path, manifest, tmp_path / "made" / name)
    assert path.read_bytes() == data
    assert result.path == tmp_path / "made" / name
    assert extract(result.path).canonical_hash == manifest.canonical_hash
    assert strip(result.path) == data
    assert stat.S_IMODE(result.path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_restored_gets_a_sidecar_and_a_reason(
    originals: Path, tmp_path: Path
) -> None:
    """A truncated film is left as it is; the manifest goes beside it and the result says why."""
    data = (originals / "faststart.mp4").read_bytes()[:-100]
    path, manifest = put(tmp_path, "cut.mp4", data), manifest_of(data)
    result = embed(path, manifest)
    assert result.method is EmbedMethod.SIDECAR
    assert "EmbeddingError" in (result.embed_error or "")
    assert path.read_bytes() == data
    assert extract_payload(path).source is ManifestSource.SIDECAR
    assert strip(path) == data


def test_an_inline_manifest_takes_the_place_of_a_sidecar(originals: Path, tmp_path: Path) -> None:
    """What an earlier call put beside the file goes when the newer one is inside; else it stays."""
    data = (originals / "plain.png").read_bytes()
    path, manifest = put(tmp_path, "a.png", data), manifest_of(data)
    sidecar_path(path).write_text(manifest_of(data, prompt="older").to_canonical_json())
    embed(path, manifest)
    assert not sidecar_path(path).exists()
    other = put(tmp_path, "b.png", data)
    sidecar_path(other).write_text('{"notes": "of mine"}')
    embed(other, manifest)
    assert sidecar_path(other).read_text() == '{"notes": "of mine"}'


def test_a_manifest_above_the_limit_is_refused_before_anything_is_written(
    originals: Path, tmp_path: Path
) -> None:
    """No reader would take it, inline or beside: nothing is touched."""
    data = (originals / "plain.png").read_bytes()
    path = put(tmp_path, "a.png", data)
    with pytest.raises(ManifestError, match="pointer"):
        embed(path, manifest_of(data, prompt="x" * (16 << 20)))
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["a.png"]


def test_files_that_are_not_there_or_not_writable_are_typed_errors(
    originals: Path, tmp_path: Path
) -> None:
    """A missing source and an unusable target name the file."""
    manifest = manifest_of(b"")
    with pytest.raises(EmbeddingError, match=r"missing\.png"):
        embed(tmp_path / "missing.png", manifest)
    with pytest.raises(EmbeddingError, match=r"missing\.png"):
        strip(tmp_path / "missing.png")
    path = put(tmp_path, "a.png", (originals / "plain.png").read_bytes())
    with pytest.raises(EmbeddingError, match=r"a\.png"):
        embed(path, manifest, path / "below" / "b.png")


def test_a_file_without_a_manifest_is_its_own_original(originals: Path, tmp_path: Path) -> None:
    """Stripping what holds nothing gives the file, whatever it is."""
    for name in ("plain.png", "picture.gif", "notes.txt", "plain.wav"):
        assert strip(originals / name) == (originals / name).read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    assert strip(tmp_path / "empty") == b""


def test_what_a_killed_append_left_is_no_part_of_the_film(originals: Path, tmp_path: Path) -> None:
    """An unfinished tail is stripped and not carried into a copy; as proof it does not count."""
    data = (originals / "faststart.mp4").read_bytes()
    scrap = bytes(4) + b"free" + MANIFEST_UUID + b'{"half a mani'
    path, manifest = put(tmp_path, "killed.mp4", data + scrap), manifest_of(data)
    assert strip(path) == data
    result = embed(path, manifest, tmp_path / "copy.mp4")
    assert result.method is EmbedMethod.INLINE
    assert strip(result.path) == data
    clean = put(tmp_path, "clean.mp4", data)
    embed(clean, manifest)
    assert result.path.read_bytes() == clean.read_bytes()
    path.write_bytes(clean.read_bytes() + scrap)
    assert extract(path).canonical_hash == manifest.canonical_hash
    assert strip(path) == data
    with Source.open(path) as source:
        found = find_original(source, {hashlib.sha256(data).hexdigest()})
    assert not found.matches
    assert found.original is not None
    assert not found.original.certain
