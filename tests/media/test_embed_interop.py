"""Both directions against genblaze's own embedder and command line."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.media import embed, extract, strip
from genblaze_dagster.media.embedding import EmbedMethod
from genblaze_dagster.media.extraction import ManifestSource, extract_payload
from tests.media.corpus import CONTAINERS
from tests.media.corpus_manifests import about, written
from tests.media.genblaze_cli import Genblaze

SAMPLE, ALL = 25, 200


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


def check_genblaze_reads_ours(
    container: str, count: int, seed: int, folder: Path, genblaze: Genblaze
) -> None:
    for path, data, manifest in written(container, count, seed, folder):
        result = embed(path, manifest)
        assert (result.method, result.embed_error) == (EmbedMethod.INLINE, None), path.name
        assert genblaze.extract(path) == manifest.to_canonical_json(), path.name
        assert strip(path) == data, path.name


@pytest.mark.parametrize("container", CONTAINERS)
def test_genblaze_reads_what_we_embed(container: str, tmp_path: Path, genblaze: Genblaze) -> None:
    """genblaze's command line prints the very manifest for every generated file we wrote."""
    check_genblaze_reads_ours(container, SAMPLE, 41, tmp_path, genblaze)


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_genblaze_reads_all_that_we_embed(
    container: str, tmp_path: Path, genblaze: Genblaze
) -> None:
    """The same for 200 generated files of each container."""
    check_genblaze_reads_ours(container, ALL, 42, tmp_path, genblaze)


def test_genblaze_reads_what_we_embed_into_its_vectors(
    vectors: Path, tmp_path: Path, genblaze: Genblaze
) -> None:
    """Every vector carries our manifest, inline or beside it, and genblaze reads it."""
    originals = sorted((vectors / "genblaze/media/original").iterdir())
    assert len(originals) >= 20
    beside = set()
    for original in originals:
        path = Path(shutil.copy(original, tmp_path))
        manifest = about(original.read_bytes(), original.suffix[1:])
        result = embed(path, manifest)
        if result.method is EmbedMethod.SIDECAR:
            beside.add(path.name)
        assert result.embed_error is None
        assert genblaze.extract(path) == manifest.to_canonical_json()
        assert strip(path) == original.read_bytes()
    assert beside == {"notes.txt", "picture.gif"}


def test_genblaze_verifies_what_we_embed(vectors: Path, tmp_path: Path, genblaze: Genblaze) -> None:
    """`genblaze verify` accepts our files and refuses one whose manifest was changed."""
    original = vectors / "genblaze/media/original/plain.png"
    path = Path(shutil.copy(original, tmp_path))
    embed(path, about(original.read_bytes(), "png"))
    assert genblaze.run("verify", path).code == 0
    path.write_bytes(path.read_bytes().replace(b'"provider":"acme"', b'"provider":"emca"'))
    assert genblaze.run("verify", path).code != 0


def test_genblaze_follows_our_pointers(vectors: Path, tmp_path: Path, genblaze: Genblaze) -> None:
    """A pointer of ours is a pointer to genblaze, with the address of the manifest."""
    path = Path(shutil.copy(vectors / "genblaze/media/original/plain.png", tmp_path))
    manifest = about(path.read_bytes(), "png")
    manifest.manifest_uri = "https://cdn.test/manifest.json"
    result = embed(path, manifest, policy=EmbedPolicy(embed_mode=EmbedMode.POINTER))
    assert result.method is EmbedMethod.POINTER
    printed = genblaze.run("extract", path)
    assert printed.code != 0
    assert "PointerSidecarError" in printed.error
    assert "https://cdn.test/manifest.json" in printed.error


def check_we_read_genblaze(
    container: str, count: int, seed: int, folder: Path, genblaze: Genblaze
) -> None:
    unreadable = 0
    for path, _, manifest in written(container, count, seed, folder):
        method = genblaze.embed(path, manifest.to_canonical_json()).method
        found = extract_payload(path)
        inline = found.source is ManifestSource.INLINE
        assert method == ("inline" if inline else "sidecar"), path.name
        assert found.manifest.to_canonical_json() == manifest.to_canonical_json(), path.name
        printed = genblaze.run("extract", path)
        unreadable += printed.code != 0
        assert printed.code != 0 or printed.output.strip() == manifest.to_canonical_json()
    # It loses its own manifest in WAV and MP4 files whose last size is open, and in no others.
    assert (unreadable > 0) == (container in {"wav", "mp4", "mov", "m4a"})


@pytest.mark.parametrize("container", CONTAINERS)
def test_we_read_what_genblaze_embeds(container: str, tmp_path: Path, genblaze: Genblaze) -> None:
    """We read all that genblaze embeds into generated files, also what it cannot read itself."""
    check_we_read_genblaze(container, SAMPLE, 43, tmp_path, genblaze)


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_we_read_all_that_genblaze_embeds(
    container: str, tmp_path: Path, genblaze: Genblaze
) -> None:
    """The same for 200 generated files of each container."""
    check_we_read_genblaze(container, ALL, 44, tmp_path, genblaze)


def test_we_read_freeform_atoms_of_genblaze(tmp_path: Path, genblaze: Genblaze) -> None:
    """Told that it is audio, genblaze writes an iTunes atom into M4A files; we read that, too."""
    read = 0
    for path, data, manifest in written("m4a", SAMPLE, 45, tmp_path):
        result = genblaze.embed(path, manifest.to_canonical_json(), mime_type="audio/mp4")
        assert extract(path).to_canonical_json() == manifest.to_canonical_json(), path.name
        read += result.method == "inline" and b"modalflow" not in path.read_bytes()
        assert path.read_bytes() != data or result.sidecar
    assert read > 0


@pytest.mark.parametrize("container", CONTAINERS)
def test_genblaze_embeds_over_ours(container: str, tmp_path: Path, genblaze: Genblaze) -> None:
    """After genblaze embedded into a file of ours, both find its manifest and no longer ours."""
    for path, data, manifest in written(container, SAMPLE, 46, tmp_path):
        update = about(data, container).to_canonical_json()
        genblaze.embed(path, update)
        reads_itself = genblaze.run("extract", path).code == 0
        path.write_bytes(data)
        embed(path, manifest)
        result = genblaze.embed(path, update)
        if result.method == "sidecar":
            # It refuses PNG files with bytes behind their end; the older manifest then wins.
            assert (result.error or "").startswith("EmbeddingError: Truncated PNG chunk")
            assert extract(path).to_canonical_json() == manifest.to_canonical_json(), path.name
            continue
        assert extract(path).to_canonical_json() == update, path.name
        # Some it cannot read after its own embed alone; ours takes nothing from it.
        if reads_itself:
            assert genblaze.extract(path) == update, path.name
