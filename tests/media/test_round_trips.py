"""strip(embed(f)) == f, for generated files of every container."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.media import embed, extract, strip
from genblaze_dagster.media.embedding import EmbedMethod
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from tests.core.strategies import runs
from tests.media.corpus import CONTAINERS, decoded, files
from tests.media.corpus_manifests import about, written

SAMPLE, ALL = 30, 200
LARGE = (60_000, 70_000, 1_000_000)
"""Prompt lengths around the largest JPEG segment, and far above it."""


def put(path: Path, manifest: Manifest) -> bytes:
    """Embed a manifest inline and return the file with it."""
    result = embed(path, manifest)
    assert (result.method, result.embed_error) == (EmbedMethod.INLINE, None), path.name
    return path.read_bytes()


def check_round_trip(container: str, path: Path, data: bytes, manifest: Manifest) -> None:
    assert strip(path) == data, path.name
    embedded = put(path, manifest)
    assert embedded != data
    assert extract(path).to_canonical_json() == manifest.to_canonical_json(), path.name
    assert strip(path) == data, path.name
    frames = decoded(container, data)
    assert frames
    assert decoded(container, embedded) == frames, path.name


def check_replacement(container: str, path: Path, data: bytes, manifest: Manifest) -> None:
    embedded = put(path, manifest)
    assert put(path, manifest) == embedded, path.name
    put(path, about(data, container))
    # Nothing of the manifest in between is left.
    assert put(path, manifest) == embedded, path.name
    assert strip(path) == data, path.name


def check_chain(container: str, path: Path, data: bytes, manifest: Manifest) -> None:
    layers, manifests = [data], [manifest]
    for _ in range(3):
        layers.append(put(path, manifests[-1]))
        manifests.append(about(layers[-1], container))
    assert len(set(layers)) == 4
    for layer, manifest_on_top in zip(layers[-2::-1], manifests[-2::-1], strict=True):
        assert extract(path).canonical_hash == manifest_on_top.canonical_hash, path.name
        assert decoded(container, path.read_bytes()) == decoded(container, data), path.name
        path.write_bytes(strip(path))
        assert path.read_bytes() == layer, path.name


def check_binding(container: str, path: Path, data: bytes, manifest: Manifest) -> None:
    put(path, manifest)
    with Source.open(path) as source:
        found = find_original(source, {sha256(data).hexdigest()})
        assert found.matches, path.name
        assert found.original is not None
        assert found.original.certain, path.name
    # The manifest of this file, pasted into another one.
    path.write_bytes(data)
    put(path, about(b"another file", container))
    with Source.open(path) as source:
        found = find_original(source, {sha256(b"another file").hexdigest()})
        assert found.original is not None
        assert (found.matches, found.original.certain) == (False, True), path.name
        assert found.sha256 == sha256(data).hexdigest(), path.name


CHECKS = (check_round_trip, check_replacement, check_chain, check_binding)


@pytest.mark.parametrize("container", CONTAINERS)
def test_embedding_is_undone_to_the_byte(container: str, tmp_path: Path) -> None:
    """What is stripped is what was there before, and decodes to the same frames all along."""
    for path, data, manifest in written(container, SAMPLE, 11, tmp_path):
        check_round_trip(container, path, data, manifest)


@pytest.mark.parametrize("container", CONTAINERS)
def test_embedding_again_replaces(container: str, tmp_path: Path) -> None:
    """An update gives the file that embedding into the original gives: one manifest is in it."""
    for path, data, manifest in written(container, SAMPLE, 12, tmp_path):
        check_replacement(container, path, data, manifest)


@pytest.mark.parametrize("container", CONTAINERS)
def test_manifests_about_embedded_files_form_layers(container: str, tmp_path: Path) -> None:
    """A manifest about a file with a manifest goes in front of it; each strip peels one off."""
    for path, data, manifest in written(container, SAMPLE, 13, tmp_path):
        check_chain(container, path, data, manifest)


@pytest.mark.parametrize("container", CONTAINERS)
def test_manifests_are_bound_to_the_bytes(container: str, tmp_path: Path) -> None:
    """The original is found by its hash, and a manifest of another file certainly differs."""
    for path, data, manifest in written(container, SAMPLE, 14, tmp_path):
        check_binding(container, path, data, manifest)


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_all_of_it_holds_for_many_files(
    container: str, check: Callable[[str, Path, bytes, Manifest], None], tmp_path: Path
) -> None:
    """The same for 200 files of each container."""
    for path, data, manifest in written(container, ALL, 15, tmp_path):
        check(container, path, data, manifest)


@pytest.mark.parametrize("container", CONTAINERS)
def test_large_manifests_fit(container: str, tmp_path: Path) -> None:
    """Manifests beyond one JPEG segment, up to a megabyte, go in and out as small ones do."""
    for length, (path, data, manifest) in zip(
        LARGE, written(container, len(LARGE), 16, tmp_path), strict=True
    ):
        run = manifest.run
        run.steps[-1].prompt = "<&\u00e9\u2713" * (length // 7)
        check_round_trip(container, path, data, Manifest.from_run(run))


@pytest.mark.parametrize("container", CONTAINERS)
def test_any_manifest_goes_into_any_file(container: str, tmp_path: Path) -> None:
    """Property: no run and no file is found for which embed and strip are not each other's undo."""

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(runs(), st.integers(0, 10_000))
    def check(run: Run, seed: int) -> None:
        ((name, data),) = files(container, 1, seed)
        path = tmp_path / name
        path.write_bytes(data)
        check_round_trip(container, path, data, about(data, container, run))

    check()
