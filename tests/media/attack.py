"""Hostile files against readers, strippers and embedders, in a process with limits of its own.

    python -m tests.media.attack FOLDER             every file in the folder as it is
    python -m tests.media.attack FOLDER ROUNDS SEED   damaged copies of the files

Prints one JSON object. Of every file the manifest is read, the originals are hashed as verification
does, and a manifest is embedded and taken out again. Only our own errors may come out of that,
within the limits for time and memory, and what was embedded must come out to the byte.
"""

import hashlib
import io
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.errors import EmbeddingError, GenblazeError
from genblaze_dagster.media import EmbedMethod, embed, extract, strip_to
from genblaze_dagster.media.append import leftover
from genblaze_dagster.media.containers import container_of, originals
from genblaze_dagster.media.edit import Edit, chunks, pieces, sha256_edited
from genblaze_dagster.media.embedding import embed_payload, plan
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from tests.media.damage import damaged

MAX_SECONDS = 15.0
MAX_MEMORY = 512 << 20
MAX_FAILURES = 20
ON_DISK_EVERY = 25
"""Files on disk go through the same code, more slowly; a part of the rounds takes that way."""


class TooSlow(BaseException):
    """A call used more than `MAX_SECONDS` of processor time."""


@dataclass(slots=True)
class Report:
    """What came of an attack: how often what happened, one failure per place, the slowest call."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    slowest: str = ""

    def watch(self, name: str, call: Callable[[], object]) -> None:
        """Make a call that must end in time, and in nothing but success."""
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            call()
        except (Exception, TooSlow) as exc:
            told = "".join(traceback.format_exception(exc, limit=-6))
            self.failures.setdefault(_place(exc), f"{name}: {told}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - started
        if seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest = seconds, name


def _stop(signum: int, frame: object) -> None:
    raise TooSlow(f"more than {MAX_SECONDS} s of processor time")


def _place(exc: BaseException) -> str:
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{type(exc).__name__} {frame.filename}:{frame.lineno}"


def attack_damaged(folder: Path, rounds: int, seed: int) -> Report:
    """Use damaged copies of the files in a folder, most of them without a disk."""
    report = Report()
    files = sorted(folder.iterdir())
    contents = [file.read_bytes() for file in files]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"damaged{files[0].suffix}"
        for number, data in enumerate(damaged(contents, rounds, seed)):
            outcomes: list[str] = []
            report.watch(
                f"round {number}",
                lambda d=data, n=number, o=outcomes: o.extend(_round(d, bound=n % 2 == 0)),
            )
            report.outcomes.update(outcomes)
            if number % ON_DISK_EVERY == 0:
                path.write_bytes(data)
                _attack_file(report, path, f"round {number}")
            if len(report.failures) >= MAX_FAILURES:
                break
    return report


def attack_whole(folder: Path) -> Report:
    """Use the files in a folder as they are."""
    report = Report()
    for path in sorted(folder.iterdir()):
        _attack_file(report, path, path.name)
    return report


def _attack_file(report: Report, path: Path, name: str) -> None:
    output = path.with_name(f"{path.name}.stripped")
    report.watch(f"{name}, extract", lambda: _allowed(lambda: extract(path).verify()))
    report.watch(f"{name}, strip", lambda: _allowed(lambda: strip_to(path, output)))
    report.watch(f"{name}, originals", lambda: _allowed(lambda: _hashed(path)))
    with Source.open(path) as source:
        sha256 = sha256_edited(source, leftover(source))
    manifest, methods = _about(sha256), list[EmbedMethod]()
    report.watch(f"{name}, embed", lambda: methods.append(embed(path, manifest).method))
    if methods == [EmbedMethod.INLINE]:
        report.watch(f"{name}, strip again", lambda: strip_to(path, output))
        with output.open("rb") as file:
            stripped = hashlib.file_digest(file, "sha256").hexdigest()
        report.watch(f"{name}, compare", lambda: _same(stripped, sha256))
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _allowed(call: Callable[[], object]) -> None:
    try:
        call()
    except GenblazeError:
        return


def _hashed(path: Path) -> None:
    with Source.open(path) as source:
        find_original(source, ())


def _same(stripped: bytes | str, original: bytes | str) -> None:
    assert stripped == original, "what was embedded did not come out to the byte"


def _about(sha256: str) -> Manifest:
    output = Asset(url="https://cdn.test/a", media_type="image/png", sha256=sha256)
    return Manifest.from_run(Run(steps=[Step(provider="acme", model="m", assets=[output])]))


_ABOUT_ANOTHER = _about(hashlib.sha256(b"another file").hexdigest())


def _round(data: bytes, *, bound: bool) -> Iterator[str]:
    """Do all that can be done with a file, and yield what came of it."""
    source = Source(io.BytesIO(data))
    container = container_of(source)
    if container is None:
        yield "unknown"
        return
    yield _read(source)
    mend = leftover(source)
    if mend:
        # What a killed writer left behind goes first, whatever comes after.
        yield "mended"
        data = _edited(source, mend)
    before = _stripped(Source(io.BytesIO(data)))
    sha256 = hashlib.sha256(data).hexdigest()
    manifest = _about(sha256) if bound else _ABOUT_ANOTHER
    payload = embed_payload(manifest)
    try:
        edit = plan(source, manifest, payload)
    except EmbeddingError:
        yield "not embedded"
        return
    if edit is None:
        yield "not embeddable"
        return
    yield "embedded"
    embedded = Source(io.BytesIO(_edited(source, edit)))
    assert container_of(embedded) is container, "the file is of another container now"
    found = container.format.read_payload(embedded)
    assert found is not None, "what was embedded is not found"
    assert parse_manifest(found).canonical_hash == manifest.canonical_hash
    # Bound to the file, it comes on top; else it takes the place of what was there.
    _same(_stripped(embedded) or b"", data if bound or before is None else before)
    if bound:
        assert find_original(embedded, {sha256}).matches


def _read(source: Source) -> str:
    container = container_of(source)
    assert container is not None
    try:
        payload = container.format.read_payload(source)
        if payload is None:
            return "bare"
        parse_manifest(payload)
    except GenblazeError:
        return "broken"
    return "read"


def _stripped(source: Source) -> bytes | None:
    """Return the file without its first manifest, None when it has none or a broken one."""
    container = container_of(source)
    assert container is not None
    try:
        find_original(source, ())
        first = next(originals(container, source), None)
    except EmbeddingError:
        return None
    if first is None:
        return None
    return _edited(source, first.undo)


def _edited(source: Source, edit: Edit) -> bytes:
    return b"".join(chunks(source, pieces(source.size, edit)))


def _main(folder: str, rounds: str = "", seed: str = "") -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    signal.signal(signal.SIGPROF, _stop)
    if rounds:
        report = attack_damaged(Path(folder), int(rounds), int(seed))
    else:
        report = attack_whole(Path(folder))
    print(
        json.dumps(
            {
                "outcomes": report.outcomes,
                "failures": list(report.failures.values()),
                "slowest": report.slowest,
                "slowest_seconds": report.slowest_seconds,
            }
        )
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
