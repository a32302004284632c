"""Hostile files of every container: never a crash, a hang, or memory without bound."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import embed
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from tests.media.attack import MAX_SECONDS
from tests.media.bombs import BOMBS, CARRIERS, MIB, texts
from tests.media.corpus import CONTAINERS, decoded, files
from tests.media.corpus_manifests import about
from tests.media.damage import damaged
from tests.media.genblaze_cli import ROOT, Genblaze

ROUNDS, ROUNDS_LONG = 20_000, 1_000_000
ORIGINALS = 24


def seeds(container: str, folder: Path) -> Path:
    """Write what gets damaged: originals, files of ours, with two layers, and of genblaze's."""
    folder.mkdir()
    for name, data in files(container, ORIGINALS, 51):
        (folder / name).write_bytes(data)
        path = folder / f"embedded-{name}"
        path.write_bytes(data)
        embed(path, about(data, container))
        layered = folder / f"layered-{name}"
        layered.write_bytes(path.read_bytes())
        embed(layered, about(path.read_bytes(), container))
    with Genblaze.running() as genblaze:
        for name, data in files(container, ORIGINALS // 2, 52):
            path = folder / name
            path.write_bytes(data)
            genblaze.embed(path, about(data, container).to_canonical_json())
    for sidecar in folder.glob("*.json"):
        sidecar.unlink()
    return folder


def attack(folder: Path, *arguments: int) -> dict[str, Any]:
    """Use files in a process with limits, and return what it reports."""
    command = [sys.executable, "-m", "tests.media.attack", str(folder), *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    report = json.loads(finished.stdout)
    assert not report["failures"], "\n".join(report["failures"])
    assert report["slowest_seconds"] < MAX_SECONDS, report["slowest"]
    return report


def check_damaged(report: dict[str, Any], rounds: int) -> None:
    # Every way through the code was taken, and often.
    for outcome in ("read", "bare", "broken", "embedded"):
        assert report["outcomes"].get(outcome, 0) > rounds / 20_000, report["outcomes"]
    assert report["outcomes"]["embedded"] > rounds / 10


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_files_do_no_harm(container: str, tmp_path: Path) -> None:
    """20,000 damaged files: a result or a typed error, in time, and every embed is undone."""
    folder = seeds(container, tmp_path / "seeds")
    report = attack(folder, ROUNDS, 61)
    check_damaged(report, ROUNDS)
    # A JPEG takes a manifest as long as its first bytes are there.
    assert container == "jpg" or report["outcomes"]["not embedded"]


@pytest.mark.slow
def test_damaged_files_do_no_harm_long(tmp_path: Path) -> None:
    """The same with a million of each container, two at a time."""
    folders = [seeds(container, tmp_path / container) for container in CONTAINERS]
    with ThreadPoolExecutor(2) as pool:
        for report in pool.map(lambda folder: attack(folder, ROUNDS_LONG, 62), folders):
            check_damaged(report, ROUNDS_LONG)


def check_bombs(container: str, size: int, folder: Path) -> None:
    for name, data in BOMBS[container](size):
        (folder / f"{name}.{container}").write_bytes(data)
    attack(folder)


@pytest.mark.parametrize("container", BOMBS)
def test_structures_without_end_do_no_harm(container: str, tmp_path: Path) -> None:
    """Very many chunks, boxes, tags or packets are walked in time, or the walk ends."""
    check_bombs(container, 4 * MIB, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("container", BOMBS)
def test_large_structures_without_end_do_no_harm(container: str, tmp_path: Path) -> None:
    """The same with files of 64 MiB."""
    check_bombs(container, 64 * MIB, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("container", CARRIERS)
def test_texts_without_end_do_no_harm(container: str, tmp_path: Path) -> None:
    """16 MiB of JSON in place of a manifest are read or refused in time and memory."""
    for name, text in texts():
        (tmp_path / f"{name}.{container}").write_bytes(CARRIERS[container](text))
    attack(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_verified_shows_the_same(container: str, tmp_path: Path) -> None:
    """A changed file whose original still matches shows that, if anything: nothing was smuggled in."""
    same, undecodable = 0, 0
    for name, data in files(container, 4, 53):
        path = tmp_path / name
        path.write_bytes(data)
        embed(path, about(data, container))
        frames = decoded(container, data)
        for changed in damaged([path.read_bytes()], 150, seed=63):
            path.write_bytes(changed)
            with Source.open(path) as source:
                if not matches(source, data):
                    continue
            shown = shown_by(container, changed)
            assert shown in (frames, None), name
            same += shown == frames
            undecodable += shown is None
    assert same > 0
    assert same + undecodable > 20


def shown_by(container: str, data: bytes) -> list[str] | None:
    """Return what a file decodes to, None when it does not, as with a wrong checksum."""
    try:
        return decoded(container, data)
    except OSError:
        return None


def matches(source: Source, original: bytes) -> bool:
    try:
        return find_original(source, {sha256(original).hexdigest()}).matches
    except EmbeddingError:
        return False
