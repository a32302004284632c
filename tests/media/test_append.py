import fcntl
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.append import AppendCheck, append_in_place, leftover, tail
from genblaze_dagster.media.edit import Splice
from genblaze_dagster.media.mp4 import MANIFEST_UUID, plan_embed, read_payload
from genblaze_dagster.media.source import Source
from tests.media.corpus import decoded, files
from tests.media.damage import damaged
from tests.media.genblaze_cli import ROOT, Genblaze
from tests.media.test_mp4 import (
    FILM,
    FILMS,
    FTYP,
    MDAT,
    MOOV,
    UNCHANGED,
    WAS_OPEN,
    box,
    edited,
    embedded,
    manifest_box,
    open_ended,
    source_of,
)


def manifest(prompt: str) -> bytes:
    step = Step(provider="acme", model="m", prompt=prompt)
    return Manifest.from_run(Run(steps=[step])).to_canonical_json().encode()


SHORT, LONG, OTHER = manifest("short"), manifest("long" * 2500), manifest("another one")
NOT_ONLY_APPENDED = ("open", "record", "swallowed")
APPENDABLE = {name: film for name, film in FILMS.items() if not name.startswith(NOT_ONLY_APPENDED)}
SCRAP = box(b"free", MANIFEST_UUID, SHORT)

FAULTY = """
import json, os, shutil, sys
from pathlib import Path
from genblaze_dagster.media.append import append_in_place

start, folder, payload, fault = sys.argv[1:]
real = {name: getattr(os, name) for name in ("write", "fsync", "ftruncate")}

def attempt(path, number, cut):
    made = 0
    def faulty(name):
        def call(*arguments):
            nonlocal made
            made += 1
            if made != number:
                return real[name](*arguments)
            if fault == "error":
                raise OSError(5, "Input/output error")
            if cut is not None:
                if name != "write" or cut >= len(arguments[1]):
                    os._exit(99)
                real["write"](arguments[0], arguments[1][:cut])
            os.kill(os.getpid(), 9)
        return call
    for name in real:
        setattr(os, name, faulty(name))
    try:
        append_in_place(path, Path(payload).read_bytes())
    except OSError as exc:
        os._exit(exc.errno)
    os._exit(0)

left = []
number, outcome = 0, None
while outcome != 0:
    number += 1
    for cut in (24, 40, 4100, None) if fault == "kill" else (None,):
        path = Path(folder) / f"{number}-{cut}.mp4"
        shutil.copy(start, path)
        child = os.fork()
        if child == 0:
            attempt(path, number, cut)
        outcome = os.waitpid(child, 0)[1]
        if os.waitstatus_to_exitcode(outcome) != 99:
            left.append([str(path), os.waitstatus_to_exitcode(outcome)])
print(json.dumps(left))
"""
KILLED, IO_ERROR = -9, 5


@dataclass(frozen=True, slots=True)
class Left:
    """What an attempt left: the file, and how the process ended."""

    path: Path
    code: int


def attempts(film: bytes, start: bytes, payload: bytes, fault: str, folder: Path) -> list[Left]:
    """Append once for each system call that it takes, which fails or is the last thing done."""
    (folder / "start").write_bytes(start)
    (folder / "payload").write_bytes(payload)
    done = subprocess.run(
        [sys.executable, "-c", FAULTY, folder / "start", folder, folder / "payload", fault],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    ended = [Left(Path(path), code) for path, code in json.loads(done.stdout)]
    assert ended[-1].code == 0
    assert ended[-1].path.read_bytes() == embedded(film, payload)
    return [left for left in ended if left.code]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "film.mp4"


@pytest.fixture(scope="module")
def real_film(vectors: Path) -> bytes:
    return (vectors / "genblaze/media/original/faststart.mp4").read_bytes()


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


@pytest.mark.parametrize("film", APPENDABLE.values(), ids=APPENDABLE)
def test_result_is_the_one_of_embedding_into_a_copy(film: bytes, path: Path) -> None:
    """In place or not, at first or for a longer or shorter one: the bytes are the same."""
    path.write_bytes(film)
    for payload in (SHORT, LONG, LONG, SHORT, OTHER):
        append_in_place(path, payload)
        assert path.read_bytes() == embedded(film, payload) == film + tail(payload)


def test_manifest_behind_a_record_is_replaced(path: Path) -> None:
    """The record of a film whose last box had no size stays where it is."""
    film = FILMS["open media"]
    path.write_bytes(embedded(film, SHORT))
    append_in_place(path, LONG)
    assert path.read_bytes() == embedded(film, LONG)


@pytest.mark.parametrize(
    ("film", "reason"),
    [
        (b"", "ftyp"),
        (MOOV + MDAT, "ftyp"),
        (FILM[:-1], "cut off"),
        (FILM + b"12345", "no box"),
        (FILMS["open media"], "no size"),
        (FILM + open_ended(b"uuid", MANIFEST_UUID + SHORT), "no size"),
        (FILM + WAS_OPEN, "record of a manifest that is gone"),
        (FILM + manifest_box(SHORT) + manifest_box(LONG), "older manifest besides"),
        (FTYP + manifest_box(SHORT) + MDAT, "older manifest besides"),
        (FILM + manifest_box(SHORT) + UNCHANGED + manifest_box(LONG), "older manifest besides"),
        (FILM + box(b"uuid", MANIFEST_UUID, SHORT, wide=True), "long header"),
        (FILM + manifest_box(bytes(64 << 20)), "67108888 bytes"),
    ],
    ids=[
        *("empty", "no ftyp", "cut", "junk", "open media", "open manifest", "record"),
        *("layers", "manifest in front", "manifest between", "long header", "large"),
    ],
)
def test_what_cannot_be_appended_to_is_left_alone(film: bytes, reason: str, path: Path) -> None:
    """The reason is given, and not a byte is written."""
    path.write_bytes(film)
    before = path.stat().st_mtime_ns
    with pytest.raises(EmbeddingError, match=reason):
        append_in_place(path, SHORT)
    assert path.read_bytes() == film
    assert path.stat().st_mtime_ns == before


def test_manifest_above_the_limit_is_refused(path: Path) -> None:
    """What no reader accepts is not appended."""
    path.write_bytes(FILM)
    with pytest.raises(EmbeddingError, match="limit in an MP4"):
        append_in_place(path, bytes((16 << 20) + 1))
    assert path.read_bytes() == FILM


@pytest.mark.parametrize(
    ("old", "new"),
    [(None, LONG), (SHORT, LONG), (LONG, SHORT), (SHORT, SHORT)],
    ids=["first", "longer", "shorter", "the same again"],
)
def test_film_plays_and_is_read_wherever_the_process_is_killed(
    old: bytes | None, new: bytes, real_film: bytes, genblaze: Genblaze, tmp_path: Path
) -> None:
    """A kill at any system call, or within one, leaves the film with the old manifest or the new.

    genblaze reads the same one, and the next embed makes the file as it would have been.
    """
    start = embedded(real_film, old) if old else real_film
    frames = decoded("mp4", real_film)
    found: set[bytes | None] = set()
    killed = attempts(real_film, start, new, "kill", tmp_path)
    assert {left.code for left in killed} == {KILLED}
    assert len(killed) >= (12 if old else 6)
    for left in killed:
        data = left.path.read_bytes()
        assert data.startswith(real_film)
        assert decoded("mp4", data) == frames
        source = source_of(data)
        payload = read_payload(source)
        found.add(payload)
        printed = genblaze.run("extract", left.path)
        assert (printed.output.strip().encode() or None) == payload
        clean = embedded(real_film, payload) if payload else real_film
        assert edited(data, leftover(source)) == clean
        append_in_place(left.path, OTHER)
        assert left.path.read_bytes() == embedded(real_film, OTHER)
    assert found == {old, new}


def test_film_survives_kills_in_a_row(real_film: bytes, tmp_path: Path) -> None:
    """What is left by an embed that was killed while it mended what another one left is fine too."""
    states = [embedded(real_film, SHORT)]
    for payload in (LONG, OTHER):
        for state in states[::7]:
            killed = attempts(real_film, state, payload, "kill", tmp_path)
            states += [left.path.read_bytes() for left in killed]
    assert len(states) > 30
    for data in states:
        assert data.startswith(real_film)
        payload = read_payload(source_of(data))
        assert payload in (None, SHORT, LONG, OTHER)
        clean = embedded(real_film, payload) if payload else real_film
        assert edited(data, leftover(source_of(data))) == clean


@pytest.mark.parametrize("old", [None, SHORT], ids=["first", "update"])
def test_any_error_leaves_the_file_as_it_was(
    old: bytes | None, real_film: bytes, tmp_path: Path
) -> None:
    """Whichever system call fails, the error is raised and the bytes are those of before."""
    start = embedded(real_film, old) if old else real_film
    failed = attempts(real_film, start, LONG, "error", tmp_path)
    assert len(failed) == (10 if old else 4)
    for left in failed:
        assert left.code == IO_ERROR
        assert left.path.read_bytes() == start


def test_full_disk_leaves_the_file_as_it_was(real_film: bytes, path: Path) -> None:
    """When there is room for a part of the manifest only, that part is taken back."""
    script = """
import resource, signal, sys
from pathlib import Path
from genblaze_dagster.media.append import append_in_place

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    append_in_place(Path(sys.argv[1]), b"{}" * 500)
except OSError as exc:
    sys.exit(exc.errno)
"""
    path.write_bytes(real_film)
    limit = str(len(real_film) + 100)
    done = subprocess.run([sys.executable, "-c", script, path, limit], cwd=ROOT, check=False)
    assert done.returncode == 27
    assert path.read_bytes() == real_film


def test_two_processes_do_not_append_at_once(path: Path) -> None:
    """While one has the file, the other is told so and writes nothing."""
    path.write_bytes(FILM)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(EmbeddingError, match="another process"):
            append_in_place(path, SHORT)
    assert path.read_bytes() == FILM
    append_in_place(path, SHORT)
    assert path.read_bytes() == embedded(FILM, SHORT)


def bytes_read() -> int:
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what the kernel counts")
def test_only_headers_of_a_huge_film_are_read(path: Path, genblaze: Genblaze) -> None:
    """3 GiB cost a few kilobytes of reading, at first and for an update, and genblaze reads it."""
    size = 3 << 30
    with path.open("wb") as file:
        file.write(FTYP + MOOV + (1).to_bytes(4) + b"mdat" + size.to_bytes(8))
        file.truncate(len(FTYP + MOOV) + size)
    for payload in (SHORT, OTHER):
        before = bytes_read()
        append_in_place(path, payload)
        assert bytes_read() - before < 20_000
        assert genblaze.extract(path).encode() == payload
    with Source.open(path) as source:
        assert read_payload(source) == OTHER
        assert source.size == len(FTYP + MOOV) + size + len(tail(OTHER))


def test_nothing_is_left_over_in_ordinary_files() -> None:
    """Films with and without manifests, broken ones and other files are as they should be."""
    for film in (*FILMS.values(), b"", FILM[:-1], FILM + b"12345", b"\x89PNG\r\n\x1a\n"):
        assert leftover(source_of(film)) == ()
        if film in FILMS.values():
            assert leftover(source_of(embedded(film, SHORT))) == ()
    layers = embedded(embedded(FILM, SHORT), LONG)
    assert leftover(source_of(layers)) == ()


def test_what_stands_in_front_of_other_boxes_is_not_left_over() -> None:
    """Only the end of a film is taken for what an append left."""
    assert leftover(source_of(FTYP + SCRAP + MOOV + MDAT)) == ()
    film = FILM + SCRAP + box(b"free", b"of another program")
    assert leftover(source_of(film)) == ()
    assert edited(film + SCRAP, leftover(source_of(film + SCRAP))) == film


def allows(film: bytes, piece: int) -> bool:
    check = AppendCheck()
    for start in range(0, len(film), piece):
        check.feed(film[start : start + piece])
    return check.allows(len(film))


@pytest.mark.parametrize("piece", [1, 7, 31, 33, 1 << 20])
def test_stream_is_checked_in_pieces_of_any_size(piece: int) -> None:
    """Those films are allowed that need nothing but another box at their end."""
    for name, film in FILMS.items():
        assert allows(film, piece) == (name in APPENDABLE), name
        assert not allows(embedded(film, SHORT), piece), name
    for film in (
        *(b"", FTYP[:7], MOOV + FTYP, FILM[:-1], FILM + b"12345", FILM + bytes(8)),
        *(FILM + SCRAP, FILM + UNCHANGED, FTYP + manifest_box(SHORT) + MDAT),
        FILM + box(b"uuid", MANIFEST_UUID, SHORT, wide=True),
        FILM + (1).to_bytes(4) + b"free" + (8).to_bytes(8),
    ):
        assert not allows(film, piece)
    assert allows(FTYP, piece)


def test_stream_of_another_length_is_not_allowed() -> None:
    """The size that the sender counted must be the one that went by."""
    for size in (len(FILM) - 1, len(FILM) + 1, 0):
        check = AppendCheck()
        check.feed(FILM)
        assert not check.allows(size)


def test_stream_is_checked_in_constant_memory() -> None:
    """Hundreds of megabytes and tens of thousands of boxes cost no more than one piece."""
    size = 400 << 20
    check = AppendCheck()
    chunk, boxes = bytes(1 << 20), box(b"free") * 20_000
    tracemalloc.start()
    check.feed(FTYP + (size + 8).to_bytes(4) + b"mdat")
    for _ in range(400):
        check.feed(chunk)
    check.feed(boxes)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert check.allows(len(FTYP) + 8 + size + len(boxes))
    # Not one byte per box; what other threads keep meanwhile is counted too.
    assert kept < 20_000
    assert peak < 2 << 20


def check_stream_against_plan(films: list[bytes], rounds: int, seed: int) -> None:
    allowed = 0
    for film in damaged(films, rounds, seed):
        if allows(film, 1 << 20):
            allowed += 1
            assert plan_embed(source_of(film), SHORT) == (Splice(len(film), 0, tail(SHORT)),)
            assert read_payload(source_of(film + tail(SHORT))) == SHORT
    assert allowed > rounds / 20


@pytest.fixture(scope="module")
def films() -> list[bytes]:
    originals = [data for _, data in files("mp4", 12, seed=701)]
    return [*originals, *(embedded(data, SHORT) for data in originals)]


def test_what_a_stream_is_allowed_is_what_embedding_does(films: list[bytes]) -> None:
    """Property: whatever is damaged, if the check allows it, appending is the whole embed."""
    check_stream_against_plan(films, 20_000, seed=702)


@pytest.mark.slow
def test_what_a_stream_is_allowed_is_what_embedding_does_long(films: list[bytes]) -> None:
    """The same for a million damaged films."""
    check_stream_against_plan(films, 1_000_000, seed=703)
